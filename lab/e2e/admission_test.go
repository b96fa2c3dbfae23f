//go:build e2e

package e2e

import (
	"fmt"
	"strings"
	"testing"
)

// TestAdmissionPolicy is admission-policy.yml, with what its comment says to look at.
func TestAdmissionPolicy(t *testing.T) {
	t.Parallel()
	k := newest.in(t, namespace(t))
	t.Cleanup(func() { cleanUp(t, "delete", "--ignore-not-found", "-f", example("admission-policy.yml")) })
	k.run(t, "apply", "-f", example("admission-policy.yml"))
	k.run(t, "create", "deployment", "old", "--image=nginx") // no rules here yet
	kubectl(t, "label", "namespace", nameOf(t, k), "images=versioned")

	const refused = "images need a version: nginx"
	eventually(t, settle, "a policy is in force soon after it was made", func() error {
		r := k.try(t, "create", "deployment", "refused", "--image=nginx")
		if r.err == nil {
			k.run(t, "delete", "deployment", "refused")
		}
		if !strings.Contains(r.stderr, refused) || !strings.Contains(r.stderr, "ValidatingAdmissionPolicy 'versioned-images' with binding 'versioned-images' denied request") {
			return fmt.Errorf("%v: %s", r.err, r.stderr)
		}
		return nil
	})
	r := k.try(t, "create", "deployment", "web", "--image=nginx:1.25")
	const warning = "Warning: Validation failed for ValidatingAdmissionPolicy 'memory-limits' with binding 'memory-limits': web may take all the memory of its server: set resources.limits.memory"
	if r.err != nil || !strings.Contains(r.stderr, warning) {
		t.Errorf("created: %v\n%s", r.err, r.stderr)
	}
	for what, args := range map[string][]string{
		"nginx:latest": {"set", "image", "deployment/web", "nginx=nginx:latest"},
		"nginx":        {"scale", "deployment/old", "--replicas=2"}, // not what a policy about the object itself sees
	} {
		r := k.try(t, args...)
		if want := args[0] == "scale"; (r.err == nil) != want || !want && !strings.Contains(r.stderr, "images need a version: "+what) {
			t.Errorf("%v: %v %s", args, r.err, r.stderr)
		}
	}
	if said := k.fails(t, "label", "deployment", "old", "tier=front"); !strings.Contains(said, refused) {
		t.Errorf("an update of what was there before: %s", said)
	}
	for image, ok := range map[string]bool{
		"registry:5000/nginx": false, "registry:5000/nginx:1": true, "a/b/nginx@sha256:0123456789012345678901234567890123456789012345678901234567890123": true, "a/b/nginx:latest": false,
	} {
		if r := k.try(t, "create", "deployment", "other", "--image="+image, "--dry-run=server"); (r.err == nil) != ok {
			t.Errorf("%s: %v %s", image, r.err, r.stderr)
		}
	}
	rows := table(t, k.run(t, "get", "validatingadmissionpolicies"))
	for _, name := range []string{"versioned-images", "memory-limits"} {
		if row := rows.row(name); row["NAME"] != name {
			t.Errorf("get shows %v", row)
		}
	}
	k.run(t, "delete", "-f", example("admission-policy.yml"))
	eventually(t, settle, "without the policies all is as before", func() error {
		if r := k.try(t, "create", "deployment", "free", "--image=nginx", "--dry-run=server"); r.err != nil {
			return fmt.Errorf("%w: %s", r.err, r.stderr)
		}
		return nil
	})
}
