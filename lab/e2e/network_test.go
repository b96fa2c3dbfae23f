//go:build e2e

package e2e

import (
	"context"
	"errors"
	"fmt"
	"net"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/net/dns/dnsmessage"

	"github.com/whalepod/whalepod/lab"
)

// peers are three pods, one on each node, that serve files of these sizes, each with
// a Service of its own, one with all of them, and a headless one.
const (
	peerPort  = 30082
	peerFiles = "1 1400 1000000"
)

func peerManifest() string {
	var b strings.Builder
	for i, n := range cluster.Nodes() {
		fmt.Fprintf(&b, `
apiVersion: v1
kind: Pod
metadata: {name: peer%[1]d, labels: {app: peer, peer: "%[1]d"}}
spec:
  nodeName: %[2]s
  terminationGracePeriodSeconds: 1
  containers:
  - name: peer
    image: busybox
    command: [sh, -c, "mkdir /www; for n in %[3]s; do head -c $n /dev/zero | tr '\\0' %[1]d >/www/$n; done; exec httpd -f -p 8080 -h /www"]
    readinessProbe: {tcpSocket: {port: 8080}, periodSeconds: 1}
---
apiVersion: v1
kind: Service
metadata: {name: srv%[1]d}
spec: {ports: [{port: 80, targetPort: 8080}], selector: {peer: "%[1]d"}}
---
`, i+1, n.Name, peerFiles)
	}
	fmt.Fprintf(&b, `
apiVersion: v1
kind: Service
metadata: {name: all}
spec: {type: NodePort, ports: [{port: 80, targetPort: 8080, nodePort: %d}], selector: {app: peer}}
---
apiVersion: v1
kind: Service
metadata: {name: headless}
spec: {clusterIP: None, ports: [{name: http, port: 8080}], selector: {app: peer}}
`, peerPort)
	return b.String()
}

// shell runs a script in a pod.
func shell(t testing.TB, k cli, pod, script string) string {
	t.Helper()
	return k.run(t, "exec", pod, "--", "sh", "-c", script)
}

// TestPodsReachEachOther: every pod reaches every pod, itself too, directly and
// through Services, in small and in big pieces, where Docker's own policy is to
// forward nothing.
func TestPodsReachEachOther(t *testing.T) {
	k := newest.in(t, namespace(t))
	for _, n := range cluster.Nodes() {
		out, err := output(n.Command(t.Context(), "iptables", "-S", "FORWARD"))
		if err != nil || !strings.Contains(out, "-P FORWARD DROP") {
			t.Fatalf("%s: Docker's FORWARD policy is not DROP, so this shows nothing: %v\n%s", n.Name, err, out)
		}
	}
	k.feed(t, peerManifest(), "create", "-f", "-")
	k.run(t, "wait", "--for=condition=Ready", "pod", "-l", "app=peer", "--timeout", settle.String())

	ips := map[string]string{}
	for i := range nodes {
		name := fmt.Sprintf("peer%d", i+1)
		ips[name] = k.run(t, "get", "pod", name, "-o", "jsonpath={.status.podIP}")
	}
	for from := range ips {
		var script, want strings.Builder
		for i := range nodes {
			to := fmt.Sprintf("peer%d", i+1)
			// Its Service has another name: a pod's own name means itself.
			for _, host := range []string{ips[to] + ":8080", fmt.Sprintf("srv%d", i+1)} {
				for size := range strings.FieldsSeq(peerFiles) {
					fmt.Fprintf(&script, "echo %s %s $(timeout 20 wget -qO- http://%s/%s | tr -dc %d | wc -c)\n", host, size, host, size, i+1)
					fmt.Fprintf(&want, "%s %s %s\n", host, size, size)
				}
			}
		}
		for _, n := range cluster.Nodes() {
			fmt.Fprintf(&script, "echo node %s $(timeout 20 wget -qO- http://%s:%d/1400 | wc -c)\n", n.Address, n.Address, peerPort)
			fmt.Fprintf(&want, "node %s 1400\n", n.Address)
		}
		if got := shell(t, k, from, script.String()); got != want.String() {
			t.Errorf("%s fetches\n%s\nwant\n%s", from, got, want.String())
		}
	}
	for _, n := range cluster.Nodes() {
		for _, addr := range []string{n.Address.String(), "127.0.0.1", docker0(t, n)} {
			p, err := on(n).get(t.Context(), fmt.Sprintf("http://%s:%d/1000000", addr, peerPort))
			if err != nil || len(p.body) != 1_000_000 {
				t.Errorf("%s on %s: %d bytes, %v", addr, n.Name, len(p.body), err)
			}
		}
	}
	// A Service gives each of its pods its share.
	counts := shell(t, k, "peer1", "for i in $(seq 60); do timeout 20 wget -qO- http://all/1; echo; done | sort | uniq -c")
	if lines := strings.Split(strings.TrimSpace(counts), "\n"); len(lines) != nodes {
		t.Errorf("60 requests to three pods: %s", counts)
	}
}

// nameServer answers A questions below example.org, in the lab's network, where the
// nodes' resolv.conf looks for a name server.
func nameServer(t *testing.T, port int, answer [4]byte) {
	t.Helper()
	at := fmt.Sprintf("%s:%d", cluster.Config().Subnet.Addr().Next(), port)
	conn, err := listenInLab(at)
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		buf := make([]byte, 1500)
		for {
			n, from, err := conn.ReadFrom(buf)
			if err != nil {
				return
			}
			if out := respond(buf[:n], answer); out != nil {
				_, _ = conn.WriteTo(out, from)
			}
		}
	}()
	t.Cleanup(func() { conn.Close(); <-done })
}

func respond(query []byte, answer [4]byte) []byte {
	var m dnsmessage.Message
	if m.Unpack(query) != nil || len(m.Questions) != 1 {
		return nil
	}
	q := m.Questions[0]
	m.Response, m.RecursionAvailable, m.Additionals = true, true, nil
	switch name := strings.ToLower(q.Name.String()); {
	case name != "www.example.org.":
		m.RCode = dnsmessage.RCodeNameError
	case q.Type == dnsmessage.TypeA:
		m.Answers = []dnsmessage.Resource{{
			Header: dnsmessage.ResourceHeader{Name: q.Name, Type: q.Type, Class: q.Class, TTL: 5},
			Body:   &dnsmessage.AResource{A: answer},
		}}
	}
	out, err := m.Pack()
	if err != nil {
		return nil
	}
	return out
}

// listenInLab opens a UDP socket in the lab's network.
func listenInLab(addr string) (conn net.PacketConn, err error) {
	err = lab.In(filepath.Join("/run/netns", cluster.Config().Prefix+"lab"), func() (err error) {
		conn, err = new(net.ListenConfig).ListenPacket(context.Background(), "udp4", addr)
		return err
	})
	return conn, err
}

// glibcPod has the C library that most images have; busybox resolves names by itself.
const glibcPod = `---
apiVersion: v1
kind: Pod
metadata: {name: glibc, labels: {app: glibc}}
spec:
  hostname: elder
  subdomain: family
  terminationGracePeriodSeconds: 1
  containers: [{name: glibc, image: httpd, command: [sleep, "600"]}]
---
apiVersion: v1
kind: Service
metadata: {name: family}
spec: {clusterIP: None, selector: {app: glibc}}
`

// says runs a script in a pod until it prints all of the words: endpoints and rules follow a moment after the objects.
func says(t *testing.T, k cli, what, pod, script string, words ...string) {
	t.Helper()
	eventually(t, settle, what+" asked by "+pod, func() error {
		out := shell(t, k, pod, script+" 2>&1; true")
		for _, word := range words {
			if !strings.Contains(out, word) {
				return fmt.Errorf("no %q in: %s", word, out)
			}
		}
		return nil
	})
}

// TestNames asks for every kind of name from a pod.
func TestNames(t *testing.T) {
	t.Parallel()
	ns := namespace(t)
	k := newest.in(t, ns)
	nameServer(t, 53, [4]byte{192, 0, 2, 80})
	nameServer(t, 5353, [4]byte{192, 0, 2, 81})
	k.feed(t, peerManifest()+glibcPod+fmt.Sprintf(`---
apiVersion: v1
kind: Service
metadata: {name: udp}
spec: {ports: [{port: 53, targetPort: 5353, protocol: UDP}]}
---
apiVersion: v1
kind: Endpoints
metadata: {name: udp}
subsets: [{addresses: [{ip: %s}], ports: [{port: 5353, protocol: UDP}]}]
---
apiVersion: v1
kind: Service
metadata: {name: elsewhere}
spec: {type: ExternalName, externalName: www.example.org}
`, cluster.Config().Subnet.Addr().Next()), "create", "-f", "-")
	k.run(t, "wait", "--for=condition=Ready", "pod", "-l", "app in (peer, glibc)", "--timeout", settle.String())
	get := func(kind, name, path string) string {
		return k.run(t, "get", kind, name, "-o", "jsonpath={"+path+"}")
	}
	all, udp := get("service", "all", ".spec.clusterIP"), get("service", "udp", ".spec.clusterIP")
	ip1 := get("pod", "peer1", ".status.podIP")
	domain := ns + ".svc.cluster.local"
	for _, c := range []struct {
		name, ask string
		words     []string
	}{
		{"Service", "nslookup -type=a all." + domain, []string{"Name:\tall." + domain + "\nAddress: " + all}},
		{"the API", "nslookup -type=a kubernetes.default.svc.cluster.local", []string{"Address: 10.254.0.1"}},
		{"DNS itself", "nslookup -type=a kube-dns.kube-system.svc.cluster.local", []string{"Address: 10.254.254.1"}},
		{"headless Service", "nslookup -type=a headless." + domain, []string{ip1, get("pod", "peer2", ".status.podIP"), get("pod", "peer3", ".status.podIP")}},
		{"pod by its address", "nslookup -type=a " + strings.ReplaceAll(ip1, ".", "-") + "." + ns + ".pod.cluster.local", []string{"Address: " + ip1}},
		{"PTR of a Service", "nslookup " + all, []string{"name = all." + domain}},
		{"SRV", "nslookup -type=srv _http._tcp.headless." + domain, []string{"8080"}},
		{"ExternalName", "nslookup -type=a elsewhere." + domain, []string{"www.example.org", "192.0.2.80"}},
		{"name outside", "nslookup -type=a www.example.org", []string{"Address: 192.0.2.80"}},
		{"name outside that there is not", "nslookup -type=a nothing.example.org", []string{"NXDOMAIN"}},
		{"Service that there is not", "nslookup -type=a nothing." + domain, []string{"NXDOMAIN"}},
		{"UDP through a Service", "nslookup -type=a www.example.org " + udp, []string{"Server:\t\t" + udp, "Address: 192.0.2.81"}},
		{"short names", "for n in all all." + ns + " all." + ns + ".svc headless:8080; do timeout 20 wget -qO- http://$n/1400 | wc -c; done", []string{"1400\n1400\n1400\n1400\n"}},
	} {
		for i := range nodes {
			says(t, k, c.name, fmt.Sprintf("peer%d", i+1), c.ask, c.words...)
		}
	}
	own := get("pod", "glibc", ".status.podIP")
	for ask, word := range map[string]string{
		"all": all, "all." + ns: all, "all." + ns + ".svc": all, "all." + domain: all, "all." + domain + ".": all, "headless": ip1, "family": own,
		"elder.family": own, "elder.family." + domain: own, "kubernetes.default": "10.254.0.1", "elsewhere": "192.0.2.80", "www.example.org": "192.0.2.80",
	} {
		says(t, k, "glibc", "glibc", "getent ahosts "+ask, word+" ")
	}
	says(t, k, "reverse", "glibc", "getent hosts "+own+" "+all, "elder.family."+domain, "all."+domain)
	says(t, k, "IPv6 of a name that has none", "peer1", "nslookup -type=aaaa all."+domain+" && echo fine", "fine")

	// Domains whose servers are others, in the ConfigMap of kube-dns, count without a restart.
	stub := fmt.Sprintf(`{"example.org": ["%s:5353"]}`, cluster.Config().Subnet.Addr().Next())
	k.run(t, "create", "configmap", "kube-dns", "-n", "kube-system", "--from-literal=stubDomains="+stub)
	t.Cleanup(func() { cleanUp(t, "delete", "configmap", "kube-dns", "-n", "kube-system", "--ignore-not-found") })
	says(t, k, "stub domain", "peer1", "nslookup -type=a www.example.org", "192.0.2.81")
	k.run(t, "delete", "configmap", "kube-dns", "-n", "kube-system")
	says(t, k, "no stub domain any more", "peer1", "nslookup -type=a www.example.org", "192.0.2.80")
}

// archive writes an image of a node's engine to a file, under another name.
func archive(t *testing.T, n *lab.Node, image, name string) string {
	t.Helper()
	if err := n.Pull(t.Context(), image); err != nil {
		t.Fatal(err)
	}
	repo, tag, _ := strings.Cut(name, ":")
	must(t, n.Engine(t.Context(), "POST", "/images/"+image+"/tag?repo="+repo+"&tag="+tag, nil, nil))
	file := filepath.Join(t.TempDir(), repo+".tar")
	cmd := n.Command(t.Context(), "curl", "-sSf", "--unix-socket", n.Socket(), "-o", file, "http://docker/images/get?names="+name)
	if _, err := output(cmd); err != nil {
		t.Fatal(err)
	}
	must(t, n.Engine(t.Context(), "DELETE", "/images/"+name, nil, nil))
	return file
}

// TestImageLoad brings an image onto all nodes without a registry.
func TestImageLoad(t *testing.T) {
	k := newest.in(t, namespace(t))
	const name = "homemade:v1"
	file := archive(t, cluster.Node(1), "busybox:latest", name)
	t.Cleanup(func() {
		for _, n := range cluster.Nodes() {
			if err := n.Engine(context.Background(), "DELETE", "/images/"+name+"?force=1", nil, nil); err != nil {
				t.Error(err)
			}
		}
	})
	tells(t, "no image", wpctl.fails(t, "image", "load", cluster.Kubeconfig()), "not an image archive")
	tells(t, "no file", wpctl.fails(t, "image", "load", "nofile.tar"), "there is no file nofile.tar")
	tells(t, "no node", wpctl.fails(t, "image", "load", file, "--node", "nowhere"), "nowhere")
	out := wpctl.run(t, "image", "load", file)
	for i, n := range cluster.Nodes() {
		tells(t, "image load", out, n.Name+": sent ", n.Name+": Loaded "+name)
		k.feed(t, fmt.Sprintf(`
apiVersion: v1
kind: Pod
metadata: {name: own%d}
spec:
  nodeName: %s
  terminationGracePeriodSeconds: 1
  containers: [{name: own, image: %q, imagePullPolicy: Never, command: [sleep, "600"]}]
`, i, n.Name, name), "create", "-f", "-")
	}
	k.run(t, "wait", "--for=condition=Ready", "pod", "--all", "--timeout", settle.String())
	k.feed(t, pod("never", "  - {name: a, image: 'homemade:v2', imagePullPolicy: Never}\n"), "create", "-f", "-")
	eventually(t, settle, "an image that was never loaded", func() error {
		if got := table(t, k.run(t, "get", "pods")).row("never")["STATUS"]; got != "ErrImageNeverPull" {
			return errors.New(got)
		}
		return nil
	})
}

// TestProxyThroughTheAPI reaches pods and Services by way of the master, which has no route to them where no agent runs.
func TestProxyThroughTheAPI(t *testing.T) {
	w := startWeb(t, 30098)
	api := "/api/v1/namespaces/" + w.ns
	for _, n := range cluster.Nodes() {
		for _, id := range []string{w.on(t, n).Name + ":80", "http:" + w.on(t, n).Name + ":80"} {
			if out := w.k.run(t, "get", "--raw", api+"/pods/"+id+"/proxy/"); !strings.Contains(out, "It works!") {
				t.Errorf("pod %s on %s: %s", id, n.Name, out)
			}
		}
	}
	if out := w.k.run(t, "get", "--raw", api+"/services/web:80/proxy/"); !strings.Contains(out, "It works!") {
		t.Errorf("service: %s", out)
	}
	pod := w.on(t, cluster.Node(2)).Name
	for path, want := range map[string]string{
		"/pods/" + pod + ":81/proxy/":   "connection refused",
		"/pods/nobody/proxy/":           `pods "nobody" not found`,
		"/services/web:81/proxy/":       `no service port 81 found for service "web"`,
		"/services/web:other/proxy/":    `no endpoints available for service "web:other"`,
		"/pods/" + pod + ":80/proxy/no": "the server could not find the requested resource",
	} {
		if out := w.k.fails(t, "get", "--raw", api+path); !strings.Contains(out, want) {
			t.Errorf("%s: %s", path, out)
		}
	}
}
