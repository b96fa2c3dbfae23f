package server

import (
	"strings"

	"k8s.io/apimachinery/pkg/runtime/schema"
)

// target is what a path under /api or /apis names.
type target struct {
	gv schema.GroupVersion
	// watch says that the old /watch/ prefix was used.
	watch                                  bool
	namespace, resource, name, subresource string
	// rest follows the subresource, with its leading slash, as in /api/v1/nodes/x/proxy/metrics.
	rest string
}

// parseTarget reads /api/v1/... and /apis/GROUP/VERSION/...; ok is false for anything shorter or else.
func parseTarget(path string) (t target, ok bool) {
	parts := strings.Split(strings.Trim(path, "/"), "/")
	switch {
	case len(parts) >= 3 && parts[0] == "api":
		t.gv = schema.GroupVersion{Version: parts[1]}
		parts = parts[2:]
	case len(parts) >= 4 && parts[0] == "apis":
		t.gv = schema.GroupVersion{Group: parts[1], Version: parts[2]}
		parts = parts[3:]
	default:
		return t, false
	}
	if parts[0] == "watch" && len(parts) > 1 {
		t.watch = true
		parts = parts[1:]
	}
	// namespaces/NS and its own two subresources are about the Namespace; anything deeper is inside it.
	if parts[0] == "namespaces" && len(parts) > 2 && parts[2] != "status" && parts[2] != "finalize" {
		t.namespace = parts[1]
		parts = parts[2:]
		if t.namespace == "" {
			return t, false
		}
	}
	t.resource = parts[0]
	if len(parts) > 1 {
		t.name = parts[1]
	}
	if len(parts) > 2 {
		t.subresource = parts[2]
	}
	if len(parts) > 3 {
		t.rest = "/" + strings.Join(parts[3:], "/")
		if strings.HasSuffix(path, "/") && !strings.HasSuffix(t.rest, "/") {
			t.rest += "/"
		}
	} else if t.subresource != "" && strings.HasSuffix(path, "/") {
		t.rest = "/"
	}
	for _, p := range parts[:min(len(parts), 3)] {
		if p == "" {
			return t, false
		}
	}
	return t, true
}
