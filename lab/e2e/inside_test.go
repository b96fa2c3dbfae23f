//go:build e2e

package e2e

import (
	"fmt"
	"regexp"
	"strings"
	"testing"
)

// seenManifest is three pods on one node, in whose containers everything that a manifest says about a process can be
// seen. The values of env are those that people write: none at all, an empty one, quoted numbers, a word that YAML takes
// for a boolean.
const seenManifest = `
apiVersion: v1
kind: ConfigMap
metadata: {name: settings}
data: {COLOR: blue, root: "* * * * * echo whale"}
---
apiVersion: v1
kind: Secret
metadata: {name: passwords}
stringData: {password: "it's s3cret", username: proxyuser}
---
apiVersion: v1
kind: Pod
metadata: {name: fields, labels: {app: inside, tier: frontend}, annotations: {note: "a b"}}
spec:
  nodeName: %[1]s
  terminationGracePeriodSeconds: 1
  shareProcessNamespace: true
  hostname: captain
  subdomain: ship
  hostAliases: [{ip: 192.0.2.7, hostnames: [whale.example, whale]}]
  dnsConfig: {searches: [fleet.example], options: [{name: attempts, value: "3"}]}
  securityContext:
    fsGroup: 2000
    supplementalGroups: [4000]
    sysctls: [{name: kernel.shm_rmid_forced, value: "1"}, {name: net.ipv4.ip_unprivileged_port_start, value: "80"}]
  containers:
  - name: user
    image: busybox
    command: [sleep, "1001"]
    securityContext: {runAsUser: 1000, runAsGroup: 3000, runAsNonRoot: true, allowPrivilegeEscalation: false}
    volumeMounts: [{name: data, mountPath: /data}]
  - name: caps
    image: busybox
    command: [sleep, "1002"]
    securityContext: {capabilities: {drop: [ALL], add: [NET_ADMIN]}, seccompProfile: {type: RuntimeDefault}}
  - name: readonly
    image: busybox
    command: [sleep, "1003"]
    securityContext: {readOnlyRootFilesystem: true, seccompProfile: {type: Unconfined}}
    resources: {limits: {memory: 64Mi, cpu: 500m}, requests: {memory: 32Mi, cpu: 100m}}
    volumeMounts:
    - {name: data, mountPath: /data, readOnly: true}
    - {name: memory, mountPath: /memory}
    env:
    - {name: LIMIT, valueFrom: {resourceFieldRef: {resource: limits.memory, divisor: 1Mi}}}
    - {name: REQUEST, valueFrom: {resourceFieldRef: {resource: requests.cpu, divisor: 1m}}}
    - {name: OTHERS, valueFrom: {resourceFieldRef: {containerName: user, resource: limits.cpu}}}
  - name: configured
    image: busybox
    command:
    - sh
    - -c
    - |
      echo "$0 $*"; exec sleep 1005
    args: [first, -instances=a:b=tcp:3306, '6', $(GREETING), $$(GREETING), $(NOBODY)]
    envFrom:
    - {configMapRef: {name: settings}}
    - {secretRef: {name: passwords}, prefix: FROM_}
    - {configMapRef: {name: nobody, optional: true}}
    env:
    - {name: BARE}
    - {name: EMPTY, value: ''}
    - {name: NUMBER, value: "1"}
    - {name: BOOL, value: "yes"}
    - {name: PASSWORD, valueFrom: {secretKeyRef: {name: passwords, key: password}}}
    - {name: ABSENT, valueFrom: {secretKeyRef: {name: passwords, key: none, optional: true}}}
    - {name: GREETING, value: "hello $(COLOR) $(NUMBER)"}
    - {name: MY_NAME, valueFrom: {fieldRef: {fieldPath: metadata.name}}}
    - {name: MY_TIER, valueFrom: {fieldRef: {fieldPath: "metadata.labels['tier']"}}}
    - {name: MY_IP, valueFrom: {fieldRef: {fieldPath: status.podIP}}}
    - {name: MY_NODE, valueFrom: {fieldRef: {fieldPath: spec.nodeName}}}
    - {name: NODE_IP, valueFrom: {fieldRef: {fieldPath: status.hostIP}}}
    volumeMounts:
    - {name: settings, mountPath: /var/spool/cron/crontabs/root, subPath: root}
    - {name: passwords, mountPath: /secrets, readOnly: true}
    - {name: all, mountPath: /all}
    - {name: optional, mountPath: /optional}
    - {name: data, mountPath: /sub, subPathExpr: $(MY_NAME)/x}
    - {name: data, mountPath: /data}
  volumes:
  - {name: data, emptyDir: {}}
  - {name: memory, emptyDir: {medium: Memory, sizeLimit: 8Mi}}
  - {name: settings, configMap: {name: settings}}
  - {name: optional, configMap: {name: nobody, optional: true}}
  - {name: passwords, secret: {secretName: passwords, defaultMode: 0400, items: [{key: password, path: deep/pw}, {key: username, path: user, mode: 0444}]}}
  - name: all
    projected:
      sources:
      - {configMap: {name: settings, items: [{key: COLOR, path: color}]}}
      - {secret: {name: passwords, items: [{key: username, path: user}]}}
      - {downwardAPI: {items: [{path: labels, fieldRef: {fieldPath: metadata.labels}}, {path: cpu, resourceFieldRef: {containerName: readonly, resource: limits.cpu, divisor: 1m}}]}}
      - {serviceAccountToken: {path: token, audience: fleet, expirationSeconds: 600}}
---
apiVersion: v1
kind: Pod
metadata: {name: host, labels: {app: inside}}
spec:
  nodeName: %[1]s
  terminationGracePeriodSeconds: 1
  hostNetwork: true
  hostPID: true
  hostIPC: true
  containers: [{name: host, image: busybox, command: [sleep, "1006"]}]
---
apiVersion: v1
kind: Pod
metadata: {name: alone, labels: {app: inside}}
spec:
  nodeName: %[1]s
  terminationGracePeriodSeconds: 1
  securityContext: {runAsUser: 33, seccompProfile: {type: RuntimeDefault}}
  containers:
  - {name: own, image: busybox, command: [sleep, "1007"]}
  - {name: other, image: busybox, command: [sleep, "1008"]}
`

// seenRows is what is seen in each container: a script, and lines of what it prints.
var seenRows = []struct {
	pod, container, script string
	lines                  []string
}{
	{"fields", "user", `id; stat -c '%g %a' /data; touch /data/mine; stat -c '%u:%g' /data/mine; grep NoNewPrivs /proc/self/status; grep CapEff /proc/self/status
cat /proc/sys/kernel/shm_rmid_forced /proc/sys/net/ipv4/ip_unprivileged_port_start; ps -o pid,args; hostname; hostname -f; cat /etc/hosts /etc/resolv.conf`, []string{
		`uid=1000 gid=3000 groups=2000,(3000,)?4000`, `2000 2777`, `1000:2000`, `NoNewPrivs:\s+1`, `CapEff:\s+0+`,
		`1\n80`, `    1 /\S*pause\S*`, ` +\d+ sleep 1003`, ` +\d+ sleep 1005`, `captain`, `captain\.ship\.NAMESPACE\.svc\.cluster\.local`,
		`192.0.2.7\s+whale.example\s+whale`, `[0-9.]+\s+captain\.ship\.NAMESPACE\.svc\.cluster\.local\s+captain`,
		`search NAMESPACE\.svc\.cluster\.local svc\.cluster\.local cluster\.local fleet\.example`, `options .*attempts:3.*`,
	}},
	{"fields", "caps", `grep -e CapEff -e Seccomp: -e NoNewPrivs /proc/self/status`, []string{`CapEff:\s+0000000000001000`, `Seccomp:\s+2`, `NoNewPrivs:\s+0`}},
	{"fields", "readonly", `touch /x; touch /data/x; df -k /memory | tail -1; dd if=/dev/zero of=/memory/x bs=1M count=9; rm /memory/x
grep Seccomp: /proc/self/status; echo "limit $LIMIT request $REQUEST others $OTHERS"`, []string{
		`touch: /x: Read-only file system`, `touch: /data/x: Read-only file system`, `tmpfs +8192 .*`, `dd: .*No space left on device`,
		`Seccomp:\s+0`, `limit 64 request 100 others [1-9]\d*`,
	}},
	{"fields", "configured", `env; cat /var/spool/cron/crontabs/root; echo; stat -L -c '%a %n' /secrets/deep/pw /secrets/user; cat /secrets/deep/pw; echo; ls /optional | wc -l
touch /secrets/x; touch /sub/found; ls /data/fields/x; cat /all/color; echo; cat /all/user; echo; cat /all/labels; echo; cat /all/cpu; echo; cut -d. -f2 /all/token | base64 -d 2>/dev/null; echo`, []string{
		`BARE=`, `EMPTY=`, `NUMBER=1`, `BOOL=yes`, `PASSWORD=it's s3cret`, `COLOR=blue`, `FROM_username=proxyuser`, `GREETING=hello blue 1`,
		`MY_NAME=fields`, `MY_TIER=frontend`, `MY_IP=10\.244\.\d+\.\d+`, `MY_NODE=NODE`, `NODE_IP=NODEIP`, `KUBERNETES_SERVICE_PORT=443`,
		`\* \* \* \* \* echo whale`, `440 /secrets/deep/pw`, `444 /secrets/user`, `it's s3cret`, `0`, `touch: /secrets/x: Read-only file system`,
		`found`, `blue`, `proxyuser`, `tier="frontend"`, `500`, `.*"aud":\["fleet"\],.*`,
	}},
	{"host", "host", `hostname; for i in net pid ipc; do readlink /proc/self/ns/$i; done; ip -o -4 addr show; ps -o args`, []string{
		`NODE`, `NETNS`, `PIDNS`, `IPCNS`, `.* NODEIP/24 .*`, `\S*dockerd .*`, `\S*wp-agent .*`,
	}},
	{"alone", "own", `id -u; ps -o pid,args; grep Seccomp: /proc/self/status; hostname`, []string{`33`, ` +1 sleep 1007`, `Seccomp:\s+2`, `alone`}},
}

// TestSeenFromInside: users, groups, rights, namespaces, variables and files are for the process as the manifest has them.
func TestSeenFromInside(t *testing.T) {
	t.Parallel()
	ns, n := namespace(t), cluster.Node(2)
	k := newest.in(t, ns)
	k.feed(t, fmt.Sprintf(seenManifest, n.Name), "create", "-f", "-")
	k.run(t, "wait", "--for=condition=Ready", "pod", "-l", "app=inside", "--timeout", settle.String())
	names, err := output(n.Command(t.Context(), "readlink", "/proc/self/ns/net", "/proc/self/ns/pid", "/proc/self/ns/ipc"))
	must(t, err)
	space := strings.Fields(names)
	if len(space) != 3 {
		t.Fatalf("namespaces of the node: %q", names)
	}
	known := strings.NewReplacer("NAMESPACE", ns, "NODEIP", regexp.QuoteMeta(n.Address.String()), "NODE_IP", "NODE_IP", "MY_NODE", "MY_NODE", "NODE", n.Name,
		"NETNS", regexp.QuoteMeta(space[0]), "PIDNS", regexp.QuoteMeta(space[1]), "IPCNS", regexp.QuoteMeta(space[2]))
	for _, row := range seenRows {
		got := k.run(t, "exec", row.pod, "-c", row.container, "--", "sh", "-c", "exec 2>&1\n"+row.script+"\nexit 0")
		for _, line := range row.lines {
			prints(t, row.pod+"/"+row.container, got, `^`+known.Replace(line)+`$`)
		}
	}
	if out := k.run(t, "exec", "alone", "-c", "own", "--", "ps", "-o", "args"); strings.Contains(out, "1008") {
		t.Errorf("a container sees the other one's processes:\n%s", out)
	}
	if out := k.run(t, "exec", "fields", "-c", "configured", "--", "env"); strings.Contains(out, "ABSENT") {
		t.Errorf("a variable from a key that is not there:\n%s", out)
	}
	prints(t, "what the arguments became", k.run(t, "logs", "fields", "-c", "configured"), `^first -instances=a:b=tcp:3306 6 hello blue 1 \$\(GREETING\) \$\(NOBODY\)$`)
	t.Run("debug", func(t *testing.T) { debugs(t, k) })
}

// debugs adds a container to a pod that runs, which sees what its target does.
func debugs(t *testing.T, k cli) {
	k.run(t, "debug", "alone", "--image=busybox", "--target=other", "--container=shell", "--profile=general", "--", "sleep", "1009")
	eventually(t, settle, "the container runs", func() error {
		if got := k.run(t, "get", "pod", "alone", "-o", "jsonpath={.status.ephemeralContainerStatuses[?(@.name=='shell')].state.running.startedAt}"); got == "" {
			return fmt.Errorf("%s", eventsOf(t, k, "alone"))
		}
		return nil
	})
	seen := k.run(t, "exec", "alone", "-c", "shell", "--", "ps", "-o", "pid,args")
	prints(t, "ps in the debugging container", seen, `^ +1 sleep 1008$`, `^ +\d+ sleep 1009$`)
	if strings.Contains(seen, "1007") {
		t.Errorf("it sees more than its target:\n%s", seen)
	}
	row := table(t, k.run(t, "get", "pod", "alone")).row("alone")
	if row["READY"] != "2/2" || row["STATUS"] != "Running" || row["RESTARTS"] != "0" {
		t.Errorf("get pod shows %v", row)
	}
	prints(t, "describe", k.run(t, "describe", "pod", "alone"), `^Ephemeral Containers:$`, `^  shell:$`)
}
