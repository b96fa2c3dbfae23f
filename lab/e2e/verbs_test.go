//go:build e2e

package e2e

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
)

// webPod is a pod with a server that has a shell and tar beside it.
const webPod = `apiVersion: v1
kind: Pod
metadata:
  name: web
  labels: {app: web, color: red}
  annotations: {note: first}
spec:
  terminationGracePeriodSeconds: 5
  containers:
  - name: nginx
    image: nginx
    ports: [{containerPort: 80}]
    env: [{name: COLOR, value: red}]
`

// manifest writes a file for "-f".
func manifest(t testing.TB, text string) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "manifest.yml")
	if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	return file
}

// TestGetInEveryForm: what get can print, select and follow.
func TestGetInEveryForm(t *testing.T) {
	t.Parallel()
	withEach(t, func(t *testing.T, k cli) {
		k = k.in(t, namespace(t))
		watched := start(t, k, "get", "pods", "--watch")
		k.run(t, "create", "-f", manifest(t, webPod))
		watched.waitFor(t, `^web +1/1 +Running`)
		k.run(t, "create", "configmap", "other", "--from-literal=a=b")
		row := podsReady(t, k, "app=web", 1)[0]

		var pod corev1.Pod
		if err := json.Unmarshal([]byte(k.run(t, "get", "pod", "web", "-o", "json")), &pod); err != nil || pod.Kind != "Pod" || pod.Status.PodIP != row["IP"] {
			t.Errorf("-o json: %v, %s %s", err, pod.Kind, pod.Status.PodIP)
		}
		prints(t, "-o yaml", k.run(t, "get", "pod", "web", "-o", "yaml"), `^apiVersion: v1$`, `^kind: Pod$`, `^    color: red$`, `^  podIP: `)
		for _, c := range []struct {
			want string
			args []string
		}{
			{"web", []string{"pod", "web", "-o", "jsonpath={.metadata.name}"}},
			{"pod/web\n", []string{"pods", "-o", "name"}},
			{"pod/web\n", []string{"pods", "-l", "app=web,color!=blue", "-o", "name"}},
			{"", []string{"pods", "-l", "app=else", "-o", "name"}},
			{"pod/web\n", []string{"pods", "-l", "app in (web,else)", "-o", "name"}},
			{"pod/web\n", []string{"pods", "--field-selector", "status.phase=Running", "-o", "name"}},
			{"", []string{"pods", "--field-selector", "metadata.name=else", "-o", "name"}},
			{"pod/web\n", []string{"pods", "--field-selector", "spec.nodeName=" + row["NODE"], "-o", "name"}},
			{"pod/web\nconfigmap/other\n", []string{"pod/web", "configmap/other", "-o", "name"}},
			{"NAME   IMAGE\nweb    nginx\n", []string{"pods", "-o", "custom-columns=NAME:.metadata.name,IMAGE:.spec.containers[0].image"}},
			{"web 1", []string{"pods", "-o", "go-template={{range .items}}{{.metadata.name}} {{len .spec.containers}}{{end}}"}},
		} {
			if got := k.run(t, append([]string{"get"}, c.args...)...); got != c.want {
				t.Errorf("kubectl get %s prints %q, not %q", strings.Join(c.args, " "), got, c.want)
			}
		}
		table(t, k.run(t, "get", "pods", "--show-labels")).has(append(podColumns[:5:5], "LABELS")...)
		table(t, k.run(t, "get", "pods", "-L", "color")).has(append(podColumns[:5:5], "COLOR")...)
		prints(t, "--no-headers", k.run(t, "get", "po", "--no-headers"), `\A^web +1/1`)
		prints(t, "-n before the verb", k.run(t, "-n", "kube-system", "get", "svc"), `^kube-dns +ClusterIP +10\.254\.254\.1 +<none> +53/UDP,53/TCP `)
		prints(t, "get pod of nothing there", k.try(t, "-n", "kube-system", "get", "pod").stderr, `^No resources found in kube-system namespace\.$`)
		prints(t, "get namespace", k.run(t, "get", "namespace"), `^NAME +STATUS +AGE$`, `^default +Active `, `^kube-system +Active `)
		prints(t, "-A", k.run(t, "get", "svc", "-A", "--sort-by=.metadata.name"), `^NAMESPACE +NAME `, `^kube-system +kube-dns `, `^default +kubernetes `)
		prints(t, "get --raw", k.run(t, "get", "--raw", "/healthz"), `^ok$`)
		prints(t, "a name that is not there", k.fails(t, "get", "pod", "nobody"), `^Error from server \(NotFound\): pods "nobody" not found$`)
		prints(t, "a kind that is not there", k.fails(t, "get", "whales"), `the server doesn't have a resource type "whales"`)
		prints(t, "events", k.run(t, "get", "events", "--field-selector", "involvedObject.name=web,reason=Scheduled"), `^LAST SEEN +TYPE +REASON +OBJECT +MESSAGE$`, `Scheduled +pod/web`)
		prints(t, "describe node", k.run(t, "describe", "node", row["NODE"]), `^Name: +`+row["NODE"]+`$`, `^  Ready +True `, `^  `+nameOf(t, k)+` +web `)
		prints(t, "describe configmap", k.run(t, "describe", "configmap", "other"), `^a:$`)
		k.run(t, "delete", "pod", "web")
		eventually(t, settle, "get --watch ends its story", func() error {
			if !strings.Contains(watched.text(), "Terminating") {
				return fmt.Errorf("%s", watched.text())
			}
			return nil
		})
	})
}

// nameOf is the namespace of a kubectl's context.
func nameOf(t testing.TB, k cli) string {
	return k.run(t, "config", "view", "--minify", "-o", "jsonpath={..namespace}")
}

// TestObjectsAreChanged: every way to change an object.
func TestObjectsAreChanged(t *testing.T) {
	t.Parallel()
	withEach(t, func(t *testing.T, k cli) {
		k = k.in(t, namespace(t))
		file := manifest(t, webPod)
		prints(t, "create", k.run(t, "create", "-f", file), `^pod/web created$`)
		prints(t, "create again", k.fails(t, "create", "-f", file), `\(AlreadyExists\).* pods "web" already exists`)
		// apply on what create made: kubectl warns and goes on.
		prints(t, "apply", k.run(t, "apply", "-f", file), `^pod/web configured$`)
		prints(t, "apply", k.run(t, "apply", "-f", file), `^pod/web unchanged$`)
		if out := k.run(t, "diff", "-f", file); out != "" {
			t.Errorf("diff of the same: %s", out)
		}
		blue := manifest(t, strings.Replace(webPod, "color: red}", "color: blue}", 1))
		prints(t, "diff", diff(t, k, blue), `^-    color: red$`, `^\+    color: blue$`)

		get := func(path string) string {
			t.Helper()
			return k.run(t, "get", "pod", "web", "-o", "jsonpath={"+path+"}")
		}
		is := func(path, want string) {
			t.Helper()
			if got := get(path); got != want {
				t.Errorf("%s is %q, not %q", path, got, want)
			}
		}
		prints(t, "label", k.run(t, "label", "pod", "web", "tier=front"), `^pod/web labeled$`)
		is(".metadata.labels.tier", "front")
		prints(t, "label again", k.fails(t, "label", "pod", "web", "tier=back"), `already has a value`)
		k.run(t, "label", "pod", "web", "tier=back", "--overwrite")
		k.run(t, "label", "pod", "web", "tier-")
		is(".metadata.labels.tier", "")
		prints(t, "annotate", k.run(t, "annotate", "pods", "--all", "note=second", "--overwrite"), `^pod/web annotated$`)
		is(".metadata.annotations.note", "second")

		prints(t, "edit", k.with(`KUBE_EDITOR=sed -i "s/color: red/color: green/"`).run(t, "edit", "pod", "web"), `^pod/web edited$`)
		is(".metadata.labels.color", "green")
		prints(t, "edit of nothing", k.with("KUBE_EDITOR=true").input(t, "", "edit", "pod", "web").stderr, `^Edit cancelled, no changes made`)

		prints(t, "patch", k.run(t, "patch", "pod", "web", "-p", `{"spec":{"containers":[{"name":"nginx","image":"nginx:1"}]}}`), `^pod/web patched$`)
		is(".spec.containers[*].image", "nginx:1")
		is(".spec.containers[0].env[0].value", "red") // a strategic merge keeps what it does not name
		k.run(t, "patch", "pod", "web", "--type=merge", "-p", `{"metadata":{"annotations":{"note":null}}}`)
		is(".metadata.annotations.note", "")
		k.run(t, "patch", "pod", "web", "--type=json", "-p", `[{"op":"replace","path":"/metadata/labels/color","value":"white"}]`)
		is(".metadata.labels.color", "white")
		prints(t, "patch of what may not change", k.fails(t, "patch", "pod", "web", "-p", `{"spec":{"nodeName":"else"}}`), `Forbidden|pod updates may not change`)

		before := get(".metadata.uid")
		for _, args := range [][]string{{"replace", "--force", "-f", file}, {"replace", "-f", file, "--force"}} {
			prints(t, "replace --force", k.run(t, args...), `^pod "web" deleted`, `^pod/web replaced$`)
			if uid := get(".metadata.uid"); uid == before {
				t.Error("replace --force kept the pod")
			} else {
				before = uid
			}
		}
		is(".metadata.labels.color", "red")
		podsReady(t, k, "app=web", 1)
		prints(t, "delete", k.run(t, "delete", "-f", file), `^pod "web" deleted`)
		prints(t, "delete again", k.fails(t, "delete", "-f", file), `pods "web" not found`)
		k.run(t, "delete", "pod", "web", "--ignore-not-found")
	})
}

// diff runs kubectl diff, which ends with 1 when there is a difference.
func diff(t testing.TB, k cli, file string) string {
	t.Helper()
	r := k.try(t, "diff", "-f", file)
	if r.err == nil || r.stdout == "" {
		t.Errorf("diff sees no difference: %v %s", r.err, r.stderr)
	}
	return r.stdout
}

// TestServerSideApply: fields have owners, and conflicts are told.
func TestServerSideApply(t *testing.T) {
	t.Parallel()
	withEach(t, func(t *testing.T, k cli) {
		k = k.in(t, namespace(t))
		text := "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: shared}\ndata: {a: %q}\n"
		one, two := manifest(t, fmt.Sprintf(text, "1")), manifest(t, fmt.Sprintf(text, "2"))
		prints(t, "apply --server-side", k.run(t, "apply", "--server-side", "-f", one), `^configmap/shared serverside-applied$`)
		conflict := k.fails(t, "apply", "--server-side", "--field-manager=else", "-f", two)
		prints(t, "apply by another", conflict, `conflict with "kubectl"`, `\.data\.a`)
		k.run(t, "apply", "--server-side", "--field-manager=else", "--force-conflicts", "-f", two)
		if got := k.run(t, "get", "configmap", "shared", "-o", "jsonpath={.data.a}"); got != "2" {
			t.Errorf("data.a is %s", got)
		}
		// One that create made can be applied too.
		k.run(t, "create", "configmap", "made", "--from-literal=a=b")
		file := manifest(t, "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: made, labels: {role: shared}}\n")
		k.run(t, "apply", "--server-side", "-f", file)
		if got := k.run(t, "get", "configmap", "made", "-o", "jsonpath={.metadata.labels.role} {.data.a}"); got != "shared b" {
			t.Errorf("after apply: %s", got)
		}
		prints(t, "dry run", k.run(t, "apply", "--dry-run=server", "-f", two), `^configmap/shared (configured|unchanged) \(server dry run\)$`)
	})
}

// TestCreateHelpers: the objects that kubectl makes from arguments.
func TestCreateHelpers(t *testing.T) {
	t.Parallel()
	withEach(t, func(t *testing.T, k cli) {
		k = k.in(t, namespace(t))
		file := filepath.Join(t.TempDir(), "credentials.json")
		if err := os.WriteFile(file, []byte(`{"user":"whale"}`), 0o600); err != nil {
			t.Fatal(err)
		}
		prints(t, "create secret", k.run(t, "create", "secret", "generic", "cloudsql", "--from-file=credentials.json="+file, "--from-literal=username=proxyuser"), `^secret/cloudsql created$`)
		prints(t, "get secret", k.run(t, "get", "secret", "cloudsql"), `^NAME +TYPE +DATA +AGE$`, `^cloudsql +Opaque +2 `)
		prints(t, "describe secret", k.run(t, "describe", "secret", "cloudsql"), `^credentials.json: +16 bytes$`, `^username: +9 bytes$`)
		prints(t, "create configmap", k.run(t, "create", "configmap", "settings", "--from-literal=COLOR=blue", "--from-file="+file), `^configmap/settings created$`)
		if got := k.run(t, "get", "configmap", "settings", "-o", "jsonpath={.data.COLOR}"); got != "blue" {
			t.Errorf("COLOR is %q", got)
		}
		prints(t, "create service", k.run(t, "create", "service", "clusterip", "svc", "--tcp=80:80"), `^service/svc created$`)
		prints(t, "create serviceaccount", k.run(t, "create", "serviceaccount", "robot"), `^serviceaccount/robot created$`)
		prints(t, "get sa", k.run(t, "get", "sa"), `^default +`, `^robot +`)
		prints(t, "create --dry-run=client", k.run(t, "create", "deployment", "d", "--image=nginx", "--dry-run=client", "-o", "yaml"), `^kind: Deployment$`)
		// A list in any order is made in the order given.
		list := manifest(t, "kind: List\napiVersion: v1\nitems:\n- kind: ConfigMap\n  apiVersion: v1\n  metadata: {name: one}\n- kind: ConfigMap\n  apiVersion: v1\n  metadata: {name: two}\n")
		prints(t, "create of a List", k.run(t, "create", "-f", list), `^configmap/one created$`, `^configmap/two created$`)
		prints(t, "create from standard input", k.feed(t, webPod, "create", "-f", "-"), `^pod/web created$`)
		k.run(t, "wait", "--for=condition=Ready", "pod/web", "--timeout=3m")
		prints(t, "expose pod", k.run(t, "expose", "pod", "web", "--port=80", "--name=front"), `^service/front exposed$`)
		k.run(t, "delete", "pod,svc", "-l", "app=web") // and waits
	})
}

// TestDiscovery: what kubectl asks the server about itself.
func TestDiscovery(t *testing.T) {
	withEach(t, func(t *testing.T, k cli) {
		prints(t, "explain", k.run(t, "explain", "pods.spec.containers"), `^KIND: +Pod$`, `^ +image\s+<string>`, `A single application container`)
		prints(t, "explain deployment", k.run(t, "explain", "deployment.spec.strategy"), `rollingUpdate`)
		prints(t, "explain with a version", k.run(t, "explain", "deployment", "--api-version=extensions/v1beta1"), `extensions|v1beta1`)
		prints(t, "explain --recursive", k.run(t, "explain", "service", "--recursive"), `nodePort\s+<integer>`)
		prints(t, "api-resources", k.run(t, "api-resources"), `^pods +po +v1 +true +Pod`, `^deployments +deploy +apps/v1 +true +Deployment`, `^nodes +no +v1 +false +Node`)
		prints(t, "api-resources --api-group", k.run(t, "api-resources", "--api-group=extensions", "-o", "name"), `^deployments.extensions$`)
		prints(t, "api-versions", k.run(t, "api-versions"), `^v1$`, `^apps/v1$`, `^apps/v1beta1$`, `^apps/v1beta2$`, `^extensions/v1beta1$`)
		prints(t, "cluster-info", plain(k.run(t, "cluster-info")), `^Kubernetes control plane is running at https://`)
		prints(t, "version", k.run(t, "version"), `Server Version`, `v1\.36\.`)
		prints(t, "auth can-i", k.run(t, "auth", "can-i", "create", "deployments.apps"), `^yes$`)
		prints(t, "auth can-i --list", k.run(t, "auth", "can-i", "--list"), `^Resources `)
	})
}
