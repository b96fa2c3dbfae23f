//go:build e2e

package e2e

import (
	"errors"
	"os/exec"
	"strings"
	"testing"
)

const set = `apiVersion: v1
kind: ConfigMap
metadata: {name: a, labels: {set: one}}
data: {k: "1"}
---
apiVersion: v1
kind: ConfigMap
metadata: {name: b, labels: {set: one}}
data: {k: "1"}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: d, labels: {set: one}}
spec:
  replicas: 0
  selector: {matchLabels: {app: d}}
  template:
    metadata: {labels: {app: d}}
    spec: {containers: [{name: d, image: busybox}]}
`

// onlyA is a set's first document.
var onlyA, _, _ = strings.Cut(set, "---\n")

// TestApplyInEveryForm: pruning, both kinds of apply on the same object, the record of the last one, and directories of kustomize.
func TestApplyInEveryForm(t *testing.T) {
	atOnce(t, every, func(t *testing.T, k cli) {
		files := map[string]string{
			"set.yml": set, "a.yml": onlyA, "a2.yml": strings.Replace(onlyA, `"1"`, `"2"`, 1), "wrong.yml": strings.Replace(onlyA, `{k: "1"}`, "7", 1),
			"base/kustomization.yaml": "resources: [d.yml]\n",
			"base/d.yml":              strings.Replace(strings.Split(set, "---\n")[2], "image: busybox", "image: busybox, envFrom: [{configMapRef: {name: settings}}]", 1),
			"over/kustomization.yaml": "bases: [../base]\nnamePrefix: prod-\ncommonLabels: {env: prod}\nimages: [{name: busybox, newTag: '1'}]\nconfigMapGenerator: [{name: settings, literals: [A=b]}]\n",
		}
		session(t, k, files, `
$ create -f @a.yml
configmap/a created
$ apply -f @set.yml --prune -l set=one
~ ^Warning: resource configmaps/a is missing the kubectl.kubernetes.io/last-applied-configuration annotation
configmap/a configured
configmap/b created
deployment.apps/d created
$ apply -f @set.yml
configmap/a unchanged
deployment.apps/d unchanged
$ apply -f @a.yml --prune -l set=one --dry-run=server
~ ^configmap/b pruned
$ apply -f @a.yml --prune -l set=one
configmap/a unchanged
configmap/b pruned
deployment.apps/d pruned
$ get configmaps,deployments -l set=one -o name
configmap/a
$ apply view-last-applied configmap a
~ ^  k: "1"$
$ diff -f @a.yml
(nothing)
$! diff -f @a2.yml
~ ^-  k: "1"$
~ ^\+  k: "2"$
$! diff -f @wrong.yml
$ apply set-last-applied -f @a2.yml
configmap/a configured
$ apply view-last-applied configmap/a -o json
~ "k": "2"
$ get configmap a -o jsonpath={.data.k}
1
$ apply -f @a.yml
configmap/a configured
$ apply --server-side -f @a2.yml
configmap/a serverside-applied
$ apply --server-side --field-manager=other -f @a2.yml
configmap/a serverside-applied
$! apply --server-side --field-manager=third -f @a.yml
~ Apply failed with 2 conflicts: conflicts with
$ get configmap a -o jsonpath={.data.k}
2
$ apply -k @over
~ ^configmap/prod-settings-\w+ created$
deployment.apps/prod-d created
$ get deployment prod-d -o jsonpath={.spec.template.metadata.labels.env}{.spec.template.spec.containers[0].image}{.spec.template.spec.containers[0].envFrom[0].configMapRef.name}
~ ^prodbusybox:1prod-settings-\w+$
$ kustomize @over
~ ^  name: prod-d$
$ delete -k @over
~ ^deployment.apps "prod-d" deleted
`)
		r := k.input(t, strings.Replace(onlyA, `"1"`, `"3"`, 1), "diff", "-f", "-")
		var exit *exec.ExitError
		if !errors.As(r.err, &exit) || exit.ExitCode() != 1 {
			t.Errorf("diff of a difference ends with %v", r.err)
		}
		edited := k.with(`KUBE_EDITOR=sed -i s/k:.*/k:\ "7"/`).run(t, "apply", "edit-last-applied", "configmap", "a")
		prints(t, "edit-last-applied", edited, `^configmap/a edited$`)
		if k.name == oldKubectl {
			return
		}
		session(t, k.with("KUBECTL_APPLYSET=true"), files, strings.ReplaceAll(`
$ apply -f @set.yml --prune --applyset=mine -n OWN --server-side --force-conflicts
configmap/b serverside-applied
$ apply -f @a.yml --prune --applyset=mine -n OWN --server-side
configmap/b pruned
deployment.apps/d pruned
$ get secret mine -o jsonpath={.metadata.annotations}
~ "applyset.kubernetes.io/contains-group-kinds":"ConfigMap"
`, "OWN", currentNamespace(t, k)))
	})
}

// TestPatchesLabelsAndReplaces: what TestObjectsAreChanged leaves, on objects without pods.
func TestPatchesLabelsAndReplaces(t *testing.T) {
	atOnce(t, every, func(t *testing.T, k cli) {
		session(t, k, map[string]string{"set.yml": set, "stale.yml": strings.Replace(onlyA, "{name: a,", `{name: a, resourceVersion: "1",`, 1), "new.yml": strings.Replace(onlyA, "name: a", "name: new", 1)}, `
$ create -f @set.yml
$ patch deployment d --type=strategic -p {"spec":{"template":{"spec":{"containers":[{"name":"d","env":[{"name":"A","value":"1"}]}]}}}}
deployment.apps/d patched
$ patch deployment d --type=strategic -p {"spec":{"template":{"spec":{"containers":[{"name":"d","env":[{"name":"B","value":"2"}]}]}}}}
$ get deployment d -o jsonpath={.spec.template.spec.containers[0].env[*].name}{.spec.template.spec.containers[0].image}
B Abusybox
$ patch deployment d -p 'spec: {paused: true}'
$ patch deployment d -p 'spec: {paused: true}'
deployment.apps/d patched (no change)
$ patch deployment d --type=merge -p {"spec":{"paused":null}}
deployment.apps/d patched
$ patch deployment d --type=json -p '[{"op":"add","path":"/metadata/labels/example.com~1x","value":"y"}]'
deployment.apps/d patched
$! patch deployment d --type=json -p '[{"op":"test","path":"/spec/replicas","value":7}]'
~ ^The request is invalid
$! patch deployment d --type=merge -p {"spec":{"replicas":-2}}
~ spec.replicas: Invalid value: -2: must be greater than or equal to 0
$new patch deployment d --subresource=scale --type=merge -p {"spec":{"replicas":0}}
~ ^scale.autoscaling/d patched
$new get deployment d --subresource=scale
~ ^NAME +DESIRED +AVAILABLE +AGE$
~ ^d +0 +0 +\S+$
$new patch deployment d --subresource=status --type=merge -p {"status":{"conditions":[{"type":"Tested","status":"True"}]}}
deployment.apps/d patched
$new get deployment d --subresource=status -o jsonpath={.metadata.name}
d
$ label deployment d example.com/x-
~ ^deployment.apps/d (un)?labeled$
$ label configmap a b tier=front
configmap/a labeled
configmap/b labeled
$! label configmap a tier=back
~ 'tier' already has a value \(front\), and --overwrite is false
$ label configmap a tier=back --overwrite
$! label configmap a tier=side --overwrite --resource-version=1
~ the object has been modified; please apply your changes to the latest version and try again
$ label configmap a --list
tier=back
$ label configmaps -l set=one tier-
~ ^configmap/b (un)?labeled$
$! label configmap a 'not valid'
$ annotate configmap a note=one
configmap/a annotated
$ annotate configmap a note=two --overwrite
$ annotate configmap a note-
$ get configmap a -o jsonpath={.metadata.annotations}
(nothing)
$! replace -f @stale.yml
~ \(Conflict\).*the object has been modified
$! replace -f @new.yml
~ configmaps "new" not found
$ replace -f @set.yml
configmap/a replaced
deployment.apps/d replaced
$ replace --force -f @set.yml
~ ^deployment.apps "d" deleted
deployment.apps/d replaced
$ replace -f @new.yml --force
configmap/new replaced
`)
	})
}

// TestGetSortsAndPages: options of get that change what is asked for.
func TestGetSortsAndPages(t *testing.T) {
	atOnce(t, []cli{wpctl, every[len(every)-1]}, func(t *testing.T, k cli) {
		session(t, k, map[string]string{"set.yml": set, "columns": "NAME VALUE\nmetadata.name data.k\n", "template": "{{len .items}} of them"}, `
$ create -f @set.yml
$ patch configmap b -p {"data":{"k":"0"}}
$ get configmaps -l set=one --show-kind
~ ^configmap/b +1 +\S+$
$ get configmaps -l set=one --sort-by=.data.k -o name
~ ^configmap/b\nconfigmap/a$
$ get configmaps --chunk-size=1 -o name
~ ^configmap/a\nconfigmap/b\nconfigmap/kube-root-ca.crt$
$ get configmaps -L set --no-headers
~ ^b +1 +\S+ +one$
$ get configmaps -l set=one -o custom-columns-file=@columns
NAME   VALUE
b      0
$ get configmaps -l set=one -o go-template-file=@template
2 of them
$ get configmaps -l set=one -o 'jsonpath={range .items[*]}{.metadata.name}={.data.k};{end}'
a=1;b=0;
$ get configmaps -l set=one --server-print=false
~ ^NAME +AGE$
$new get configmap a -o kyaml
~ ^  kind: "ConfigMap",$
$ get -f @set.yml -o name
deployment.apps/d
$ get configmap,deployment -l set=one
~ ^NAME +READY +UP-TO-DATE +AVAILABLE +AGE$
$ get cm/a deploy/d -o name
deployment.apps/d
$ get namespace default --watch --request-timeout=1s
~ ^default +Active +\S+$
$! get configmap a b --field-selector=metadata.name=a
~ when a selector is|name cannot be provided
$ auth can-i '*' '*'
yes
$! auth can-i create pods --as=nobody
no
$ auth can-i get pods --subresource=log
yes
$ auth can-i get /healthz
yes
$new auth whoami
~ ^Groups +\[system:masters system:authenticated\]
$ config view
~ ^    certificate-authority-data: DATA\+OMITTED$
$ config get-contexts
~ ^\* +\S+ +\S+ +\S+ +\S+$
$ api-versions
batch/v1beta1
policy/v1
$ version --client
~ ^Client Version
$ explain statefulset.spec.updateStrategy.rollingUpdate
~ ^ +partition\s+<integer>
$ explain ingress.spec.rules --api-version=extensions/v1beta1
~ ^ +http\s+<
`)
	})
}
