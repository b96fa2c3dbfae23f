//go:build e2e

package e2e

import (
	"crypto/tls"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// wrong are manifests with a mistake, and what kubectl must say of each: where it is,
// and what.
var wrong = []struct {
	name, manifest string
	words          []string
}{
	{"broken YAML", "apiVersion: v1\nkind: Pod\nmetadata:\n  name: broken\n spec:\n  containers:\n", []string{"wrong.yml", "yaml: line 4"}},
	{"a tab", "apiVersion: v1\nkind: Pod\nmetadata:\n\tname: tab\n", []string{"wrong.yml", "yaml: line 4", "cannot start any token"}},
	{"an article's arrow after the kind", "apiVersion: v1\nkind: Service  ←30080番ポートでwordpressコンテナの80番ポートにアクセスできるようサービスを作成\nmetadata:\n  name: wordpress\nspec:\n  ports:\n    - port: 80\n",
		[]string{"wrong.yml", `no matches for kind "Service  ←30080番ポートで`}},
	{"an article's arrow after a name", pod("arrow", "  - name: mysql  ←mysqlコンテナに関する設定\n    image: mysql\n"),
		[]string{`Pod "arrow" is invalid`, "spec.containers[0].name: Invalid value", "←mysqlコンテナに関する設定"}},
	{"four stars for a password", pod("stars", "  - name: a\n    image: mysql\n    env:\n    - name: MYSQL_PASSWORD\n      value: ****\n"),
		[]string{"wrong.yml", "yaml: line 11", "did not find expected alphabetic or numeric character"}},
	{"fourteen stars for a password", pod("stars", "  - name: a\n    image: mysql\n    env:\n    - name: MYSQL_PASSWORD\n      value: **************\n"),
		[]string{"wrong.yml", "yaml: line 11"}},
	{"unknown fields", pod("unknown", "  - name: a\n    image: busybox\n    imagePullPolice: Always\n    ports:\n    - containerport: 80\n"),
		[]string{"imagePullPolice", "containerport"}},
	{"a kind that there is not", "apiVersion: v1\nkind: Sevrice\nmetadata: {name: a}\n", []string{"wrong.yml", `no matches for kind "Sevrice" in version "v1"`}},
	{"the same name twice", pod("twice", "  - {name: a, image: busybox}\n  - {name: a, image: busybox}\n"),
		[]string{`Pod "twice" is invalid`, `spec.containers[1].name: Duplicate value: "a"`}},
	{"an object that exists", "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: kube-root-ca.crt}\n", []string{`configmaps "kube-root-ca.crt" already exists`}},
	{"an occupied nodePort", nodePort(30097), []string{`Service "occupied" is invalid`, "spec.ports[0].nodePort: Invalid value: 30097: provided port is already allocated"}},
	{"a nodePort out of range", nodePort(20080), []string{"spec.ports[0].nodePort: Invalid value: 20080", "30000-32767"}},
	{"a number that is none", pod("number", "  - {name: a, image: busybox, ports: [{containerPort: eighty}]}\n"), []string{"containerPort"}},
	{"no image", pod("noimage", "  - {name: a}\n"), []string{`Pod "noimage" is invalid`, "spec.containers[0].image: Required value"}},
}

func pod(name, containers string) string {
	return "apiVersion: v1\nkind: Pod\nmetadata:\n  name: " + name + "\nspec:\n  containers:\n" + containers
}

func nodePort(port int) string {
	return fmt.Sprintf("apiVersion: v1\nkind: Service\nmetadata: {name: occupied}\nspec: {type: NodePort, ports: [{port: 80, nodePort: %d}], selector: {app: x}}\n", port)
}

// TestWrongManifests: each mistake is named with its place, and harms nothing.
func TestWrongManifests(t *testing.T) {
	w := startWeb(t, 30097)
	file := filepath.Join(t.TempDir(), "wrong.yml")
	for _, k := range append([]cli{wpctl}, every...) {
		k = k.in(t, w.ns)
		t.Run(k.name, func(t *testing.T) {
			before := k.run(t, "get", "all,configmaps,secrets", "-o", "name")
			for _, c := range wrong {
				if err := os.WriteFile(file, []byte(c.manifest), 0o600); err != nil {
					t.Fatal(err)
				}
				tells(t, c.name, k.fails(t, "create", "-f", file), c.words...)
			}
			if after := k.run(t, "get", "all,configmaps,secrets", "-o", "name"); after != before {
				t.Errorf("before: %s\nafter: %s", before, after)
			}
		})
	}
	pageShows(t, beside(), w.url(cluster.Node(1)), "It works!")
}

// tells complains unless the words are all there.
func tells(t testing.TB, what, text string, words ...string) {
	t.Helper()
	for _, word := range words {
		if !strings.Contains(text, word) {
			t.Errorf("%s: no %q in: %s", what, word, text)
		}
	}
}

// TestPodsThatCannotRun: what is wrong with them stands in their status and events.
func TestPodsThatCannotRun(t *testing.T) {
	k := newest.in(t, namespace(t))
	for _, manifest := range []string{
		pod("noimage", "  - {name: a, image: 'nosuchimage:1'}\n"),
		pod("badname", "  - {name: a, image: 'No Such:1'}\n"),
		pod("huge", "  - {name: a, image: busybox, resources: {requests: {cpu: 640}}}\n"),
		pod("nowhere", "  - {name: a, image: busybox}\n  nodeSelector: {disk: ssd}\n"),
		pod("noconfig", "  - {name: a, image: busybox, envFrom: [{configMapRef: {name: missing}}]}\n"),
		pod("nocommand", "  - {name: a, image: busybox, command: [/no/such/program]}\n"),
	} {
		k.feed(t, manifest, "create", "-f", "-")
	}
	for name, want := range map[string]struct {
		status []string // any of them, as "get pods" shows it
		words  []string // in what "describe" shows
	}{
		"noimage":   {[]string{"ErrImagePull", "ImagePullBackOff"}, []string{`Failed to pull image "nosuchimage:1"`, "ErrImagePull", `Back-off pulling image "nosuchimage:1"`, "ImagePullBackOff"}},
		"badname":   {[]string{"InvalidImageName"}, []string{"InspectFailed", "InvalidImageName", "must be lowercase"}},
		"huge":      {[]string{"Pending"}, []string{"FailedScheduling", "0/3 nodes are available: 3 Insufficient cpu."}},
		"nowhere":   {[]string{"Pending"}, []string{"FailedScheduling", "0/3 nodes are available: 3 node(s) didn't match Pod's node affinity/selector."}},
		"noconfig":  {[]string{"CreateContainerConfigError"}, []string{`configmap "missing" not found`}},
		"nocommand": {[]string{"RunContainerError", "CrashLoopBackOff"}, []string{"/no/such/program", "no such file or directory"}},
	} {
		eventually(t, settle, name+" tells what is wrong", func() error {
			if got := table(t, k.run(t, "get", "pods")).row(name)["STATUS"]; !strings.Contains(strings.Join(want.status, " "), got) {
				return fmt.Errorf("STATUS is %s, not one of %v", got, want.status)
			}
			text := k.run(t, "describe", "pod", name)
			for _, word := range want.words {
				if !strings.Contains(text, word) {
					return fmt.Errorf("no %q in: %s", word, text)
				}
			}
			return nil
		})
	}
}

// TestBodyTooLarge is a file that no ConfigMap can hold.
func TestBodyTooLarge(t *testing.T) {
	k := newest.in(t, namespace(t))
	file := filepath.Join(t.TempDir(), "big")
	if err := os.WriteFile(file, []byte(strings.Repeat("x", 5<<20)), 0o600); err != nil {
		t.Fatal(err)
	}
	tells(t, "5 MB", k.fails(t, "create", "configmap", "big", "--from-file", file), "Request entity too large")
	must(t, os.Truncate(file, 2<<20))
	tells(t, "2 MB", k.fails(t, "create", "configmap", "big", "--from-file", file), "Too long")
	tells(t, "still serving", k.run(t, "get", "configmaps"), "kube-root-ca.crt")
}

// TestStrangersGet401: nobody gets in without credentials, or with somebody else's.
func TestStrangersGet401(t *testing.T) {
	client := cluster.HTTPClient(pageLimit)
	defer client.CloseIdleConnections()
	client.Transport.(*http.Transport).TLSClientConfig = &tls.Config{InsecureSkipVerify: true}
	for _, token := range []string{"", "abcdef.0123456789abcdef", "junk", strings.Repeat("x", 10000)} {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, cluster.API()+"/api/v1/secrets", nil)
		if err != nil {
			t.Fatal(err)
		}
		if token != "" {
			req.Header.Set("Authorization", "Bearer "+token)
		}
		p, err := do(client, req)
		if err != nil || p.status != http.StatusUnauthorized || !strings.Contains(p.body, `"reason": "Unauthorized"`) && !strings.Contains(p.body, `"reason":"Unauthorized"`) {
			t.Errorf("with token %.30q: %d %s %v", token, p.status, p.body, err)
		}
	}
}

// TestHints is what wpctl says where newcomers stumble.
func TestHints(t *testing.T) {
	tells(t, "create without -f", wpctl.fails(t, "create", "app.yml"), `"app.yml" is a file`, "wpctl create -f app.yml")
	tells(t, "no such file", wpctl.fails(t, "create", "-f", "nofile.yml"), `"nofile.yml" does not exist`)
	tells(t, "no master", wpctl.fails(t, "--server", "https://127.0.0.1:1", "get", "pods"), "127.0.0.1:1", "wp-master", "6443")
}

// TestJoinRefused is wp-agent join with what does not let it in.
func TestJoinRefused(t *testing.T) {
	line := strings.Fields(wpctl.run(t, "token", "create", "--print-join-command"))
	good := map[string]string{}
	for i := 2; i+1 < len(line); i += 2 {
		good[line[i]] = line[i+1]
	}
	short := strings.TrimSpace(wpctl.run(t, "token", "create", "--ttl", "1s"))
	eventually(t, settle, "the token expires", func() error {
		for _, row := range table(t, wpctl.run(t, "token", "list")).rows {
			if row["TOKEN"] == short && row["TTL"] == "<expired>" {
				return nil
			}
		}
		return fmt.Errorf("%s has not expired", short)
	})
	deleted := strings.TrimSpace(wpctl.run(t, "token", "create"))
	tells(t, "token delete", wpctl.run(t, "token", "delete", deleted), "deleted")
	tells(t, "token delete again", wpctl.fails(t, "token", "delete", deleted), "there is no token")
	tells(t, "token create", wpctl.fails(t, "token", "create", "bad"), `"bad" is no token`)
	for _, c := range []struct {
		name, option, value string
		words               []string
	}{
		{"expired token", "--token", short, []string{"expired", "wpctl token create"}},
		{"deleted token", "--token", deleted, []string{"is not known", "wpctl token create"}},
		{"malformed token", "--token", "junk", []string{"malformed"}},
		{"no token", "--token", "", []string{"--token is missing"}},
		{"another CA", "--ca-hash", "sha256:" + strings.Repeat("0", 64), []string{"wrong --ca-hash"}},
		{"nobody there", "--master", "198.51.100.60:6444", []string{"198.51.100.60:6444"}},
	} {
		dir := t.TempDir()
		args := []string{"join", "--node-name", "stranger", "--data-dir", dir, "--docker-host", "unix:///run/docker.sock"}
		for option, value := range good {
			if option == c.option {
				value = c.value
			}
			args = append(args, option, value)
		}
		began := time.Now()
		out, err := cluster.Node(2).Command(t.Context(), filepath.Join(cluster.Config().Bin, "wp-agent"), args...).CombinedOutput()
		if err == nil {
			t.Errorf("%s: joined", c.name)
		}
		tells(t, c.name, string(out), c.words...)
		if files, _ := os.ReadDir(dir); len(files) > 1 || time.Since(began) > time.Minute {
			t.Errorf("%s: it left %v, after %s", c.name, files, time.Since(began))
		}
	}
	if n := len(table(t, kubectl(t, "get", "nodes")).rows); n != nodes {
		t.Errorf("%d nodes", n)
	}
}
