// Package layout keeps the rules of who may import whom; see the package map in docs/ARCHITECTURE.md.
package layout

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"os/exec"
	"strings"
	"testing"
)

const module = "github.com/whalepod/whalepod/"

type goPackage struct {
	ImportPath   string
	Imports      []string
	TestImports  []string
	XTestImports []string
}

// ours lists, for each part of the tree, the parts it may import besides itself. The longest prefix of a package's path
// counts.
var ours = map[string][]string{
	"api/resource":                                 {},
	"api/server":                                   {"api/resource"},
	"cmd/internal/layout":                          {},
	"cmd/internal/lean":                            {},
	"cmd/internal/version":                         {},
	"cmd/wp-agent":                                 {"node", "cmd/internal/version", "cmd/internal/lean"},
	"cmd/wp-master":                                {"master", "cmd/internal/version", "cmd/internal/lean"},
	"cmd/wpctl":                                    {"lab", "examples", "node/diagnose", "cmd/internal/version"},
	"dns":                                          {},
	"examples":                                     {},
	"lab":                                          {},
	"master":                                       {"master", "api/server", "api/resource", "proto", "node/membership"},
	"master/clustertest":                           {"master", "node", "proto", "dns"},
	"master/internal/admission":                    {"master/internal/registry", "master/internal/webhook", "api/resource", "api/server"},
	"master/internal/aggregator":                   {"master/internal/registry", "api/server"},
	"master/internal/netpolicy":                    {"proto"},
	"master/internal/pki":                          {},
	"master/internal/rbac":                         {"master/internal/registry", "api/resource", "api/server"},
	"master/internal/satoken":                      {},
	"master/internal/store":                        {},
	"master/internal/registry":                     {"master/internal/store", "master/internal/satoken", "api/resource", "api/server"},
	"master/internal/controller":                   {"master/internal/registry"},
	"master/internal/controllers":                  {"master/internal/controller", "master/internal/registry", "master/internal/controllers/podstate", "master/internal/controllers/history"},
	"master/internal/controllers/podstate":         {},
	"master/internal/controllers/history":          {"master/internal/registry", "master/internal/controllers/podstate"},
	"master/internal/controllers/controllertest":   {"master/internal/store", "master/internal/registry", "api/resource"},
	"master/internal/controllers/daemonset":        {"master/internal/controller", "master/internal/registry", "master/internal/controllers/podstate", "master/internal/controllers/history", "scheduler"},
	"master/internal/controllers/binding":          {"master/internal/controller", "master/internal/registry", "master/internal/controllers/podstate", "scheduler"},
	"master/internal/controllers/persistentvolume": {"master/internal/controller", "master/internal/registry", "scheduler"},
	"master/internal/sessions":                     {"master/internal/registry", "master/internal/netpolicy", "master/internal/pki", "api/resource", "api/server", "proto"},
	"master/internal/webhook":                      {},
	"master/internal/usage":                        {"master/internal/registry", "api/resource", "api/server", "proto"},
	"node":                                         {"node", "dns", "proxy", "proto"},
	"node/diagnose":                                {},
	"node/membership":                              {},
	"node/network":                                 {},
	"proto":                                        {},
	"proxy":                                        {},
	"proxy/ipset":                                  {"proxy/policy"},
	"proxy/policy":                                 {"proto/netpolicy"},
	"scheduler":                                    {},
}

// owners of a library: nobody else imports it.
var owners = map[string][]string{
	"go.etcd.io/bbolt":                {"master/internal/store"},
	"github.com/docker/docker":        {"node/runtime/docker"},
	"github.com/vishvananda/netlink":  {"node/network", "proxy/ipset"},
	"github.com/miekg/dns":            {"dns"},
	"github.com/hashicorp/memberlist": {"node/membership"},
	"google.golang.org/grpc":          {"master/internal/sessions", "node", "proto"},
	"k8s.io/kubernetes":               {"api/resource"},
	// Its types (pkg/apis) are vocabulary as k8s.io/api is.
	"k8s.io/apiextensions-apiserver/pkg/apiserver": {"api/resource"},
}

func TestImports(t *testing.T) {
	for _, p := range list(t) {
		path, ok := strings.CutPrefix(p.ImportPath, module)
		if !ok {
			continue
		}
		part := partOf(path)
		if part == "" {
			t.Errorf("%s is not in the package map: add it to docs/ARCHITECTURE.md and to this test", path)
			continue
		}
		for _, imp := range p.Imports {
			checkOurs(t, path, part, imp)
			checkOwner(t, path, imp)
		}
		for _, imp := range append(p.TestImports, p.XTestImports...) {
			checkOwner(t, path, imp)
		}
	}
}

func checkOurs(t *testing.T, path, part, imp string) {
	t.Helper()
	imp, ok := strings.CutPrefix(imp, module)
	if !ok || within(imp, part) {
		return
	}
	for _, allowed := range ours[part] {
		if within(imp, allowed) {
			return
		}
	}
	t.Errorf("%s imports %s, which is not for it", path, imp)
}

func checkOwner(t *testing.T, path, imp string) {
	t.Helper()
	for library, parts := range owners {
		if !within(imp, library) {
			continue
		}
		ok := false
		for _, part := range parts {
			ok = ok || within(path, part)
		}
		if !ok && !testsMayUse(path, library) {
			t.Errorf("%s imports %s, whose only importers are %v", path, imp, parts)
		}
	}
}

// testsMayUse: the cluster tests dial the agent protocol themselves.
func testsMayUse(path, library string) bool {
	return path == "master/clustertest" && library == "google.golang.org/grpc"
}

func partOf(path string) string {
	best := ""
	for part := range ours {
		if within(path, part) && len(part) > len(best) {
			best = part
		}
	}
	return best
}

func within(path, prefix string) bool { return path == prefix || strings.HasPrefix(path, prefix+"/") }

func list(t *testing.T) []goPackage {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "go", "list", "-json=ImportPath,Imports,TestImports,XTestImports", module+"...")
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go list: %v\n%s", err, stderr.String())
	}
	var all []goPackage
	for d := json.NewDecoder(bytes.NewReader(out)); ; {
		var p goPackage
		if err := d.Decode(&p); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
		all = append(all, p)
	}
	if len(all) < 20 {
		t.Fatalf("only %d packages found", len(all))
	}
	return all
}
