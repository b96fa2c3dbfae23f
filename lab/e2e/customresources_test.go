//go:build e2e

package e2e

import (
	"fmt"
	"strings"
	"testing"
)

const lighthouseDefinition = `
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: lighthouses.sea.example.com}
spec:
  group: sea.example.com
  scope: Namespaced
  names: {plural: lighthouses, singular: lighthouse, kind: Lighthouse, shortNames: [lh], categories: [all]}
  versions:
  - name: v1
    served: true
    storage: true
    additionalPrinterColumns:
    - {name: Color, type: string, jsonPath: .spec.color}
    - {name: Lamps, type: integer, jsonPath: .spec.lamps}
    subresources: {status: {}, scale: {specReplicasPath: .spec.lamps, statusReplicasPath: .status.lamps}}
    schema:
      openAPIV3Schema:
        type: object
        description: A tower with lamps.
        properties:
          spec:
            type: object
            description: How it shines.
            required: [color]
            x-kubernetes-validations: [{rule: "self.color != 'black'", message: a black light is not seen}]
            properties:
              color: {type: string, description: Of the light.}
              lamps: {type: integer, minimum: 0, maximum: 5, default: 1}
          status: {type: object, properties: {lamps: {type: integer}}}
`

const lighthouse = `
apiVersion: sea.example.com/v1
kind: Lighthouse
metadata: {name: rock}
spec: {color: red}
`

// TestCustomResources: a kind of one's own, as Helm charts bring them.
func TestCustomResources(t *testing.T) {
	t.Parallel()
	k := newest.in(t, namespace(t))
	t.Cleanup(func() { cleanUp(t, "delete", "crd", "lighthouses.sea.example.com", "--ignore-not-found") })
	k.feed(t, lighthouseDefinition, "apply", "-f", "-")
	k.run(t, "wait", "--for=condition=established", "crd/lighthouses.sea.example.com", "--timeout=30s")
	k.feed(t, lighthouse, "apply", "-f", "-")
	if row := table(t, k.run(t, "get", "lh")).has("NAME", "COLOR", "LAMPS").row("rock"); row["COLOR"] != "red" || row["LAMPS"] != "1" {
		t.Errorf("get: %v", row)
	}
	for _, step := range []struct {
		want string
		args []string
	}{
		{"lighthouse.sea.example.com/rock", []string{"get", "all", "-o", "name"}},
		{"Of the light.", []string{"explain", "lighthouse.spec"}},
		{"Color:  red", []string{"describe", "lighthouse", "rock"}},
		{"scaled", []string{"scale", "lh", "rock", "--replicas=3"}},
		{"patched", []string{"patch", "lh", "rock", "--type=merge", "-p", `{"spec":{"color":"green"}}`}},
	} {
		if out := k.run(t, step.args...); !strings.Contains(out, step.want) {
			t.Errorf("%v: no %q in\n%s", step.args, step.want, out)
		}
	}
	for change, want := range map[string]string{
		"color: black":        "a black light is not seen",
		"color: red, lamp: 2": `unknown field "spec.lamp"`,
		"lamps: 2":            "spec.color: Required value",
		"color: 1":            `spec.color: Invalid value: "integer"`,
	} {
		text := strings.NewReplacer("color: red", change, "name: rock", "name: other").Replace(lighthouse)
		if r := k.input(t, text, "apply", "-f", "-"); r.err == nil || !strings.Contains(r.stderr, want) {
			t.Errorf("%s: %v %s", change, r.err, r.stderr)
		}
	}
	k.run(t, "delete", "crd", "lighthouses.sea.example.com", "--timeout=1m")
	eventually(t, settle, "its path is gone", func() error {
		r := k.try(t, "get", "--raw", "/apis/sea.example.com/v1/namespaces/default/lighthouses")
		if r.err == nil || !strings.Contains(r.stderr, "could not find the requested resource") {
			return fmt.Errorf("%v %s%s", r.err, r.stdout, r.stderr)
		}
		return nil
	})
}
