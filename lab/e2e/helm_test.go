//go:build e2e

package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// helms are the releases of Helm that the tests use, and what is said differently to them.
var helms = []struct {
	module, version string
	status          []string // shows a release with its objects
	undo            string   // option of upgrade
	replace         []string // and those by which it writes objects whole
}{
	{"helm.sh/helm/v3", "v3.22.0", []string{"status", "--show-resources"}, "--atomic", []string{"--force"}},
	{"helm.sh/helm/v4", "v4.3.1", []string{"status"}, "--rollback-on-failure", []string{"--force-replace", "--server-side=false"}},
}

// helmLimit is for building Helm, which is done once.
const helmLimit = 20 * time.Minute

// helmPath is where a release of Helm is cached.
func helmPath(cache, version string) string { return filepath.Join(cache, "helm", version, "helm") }

// buildHelms builds Helm, unmodified and with the versions of its own go.mod, from the module proxy: before the tests, which a
// compiler beside them would slow down.
func buildHelms(ctx context.Context, cache string) error {
	ctx, cancel := context.WithTimeout(ctx, helmLimit)
	defer cancel()
	for _, helm := range helms {
		path := helmPath(cache, helm.version)
		if exists(path) {
			continue
		}
		fmt.Fprintf(os.Stderr, "e2e:   building helm %s\n", helm.version)
		if err := intoCache(filepath.Dir(path), func(tmp string) error {
			flags := fmt.Sprintf("-s -w -X %s/internal/version.version=%s", helm.module, helm.version)
			cmd := exec.CommandContext(ctx, "go", "install", "-trimpath", "-ldflags", flags, helm.module+"/cmd/helm@"+helm.version)
			cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOBIN="+tmp)
			_, err := output(cmd)
			return err
		}); err != nil {
			return fmt.Errorf("helm %s: %w", helm.version, err)
		}
	}
	return nil
}

// release is the life of a release of testdata/shop.
type release struct {
	k, h            cli
	chart           string
	undo            string
	status, replace []string
}

// TestHelm takes a chart with a little of everything through its life: installed, tested, upgraded, upgraded in vain twice,
// rolled back, removed. Helm is unmodified, of both major releases that are in use.
func TestHelm(t *testing.T) {
	t.Parallel()
	chart, err := filepath.Abs(filepath.Join("testdata", "shop"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cleanUp(t, "delete", "crd", "sails.shop.example.com", "--ignore-not-found") })
	// Of two installations at the same moment only one makes the chart's definition, and the other does not wait for it.
	var installs sync.Mutex
	for _, helm := range helms {
		t.Run(helm.version, func(t *testing.T) {
			t.Parallel()
			s := release{chart: chart, status: helm.status, undo: helm.undo, replace: helm.replace}
			s.h = cli{name: "helm-" + helm.version, path: helmPath(cluster.Config().Cache, helm.version), home: t.TempDir()}
			name := "helm-" + strings.ReplaceAll(helm.version, ".", "-")
			t.Cleanup(func() { cleanUp(t, "delete", "namespace", name, "--ignore-not-found", "--timeout=3m") })
			s.k = newest.in(t, name)
			s.h.kubeconfig = s.k.kubeconfig
			func() {
				installs.Lock()
				defer installs.Unlock() // also when it fails
				s.install(t, name)
			}()
			s.inspect(t)
			password := s.field(t, "secret/shop", "{.data.password}")
			s.upgrade(t)
			s.upgradeInVain(t)
			s.rollBack(t)
			s.overwrite(t)
			s.uninstall(t)
			if now := s.field(t, "secret/shop", "{.data.password}"); now != password {
				t.Error("the password is another than at the installation")
			}
		})
	}
}

// install: what hooks made is there or gone as they say, and the templates knew the cluster.
func (s release) install(t *testing.T, namespace string) {
	t.Helper()
	s.h.run(t, "lint", s.chart)
	out := s.h.run(t, "install", "shop", s.chart, "--namespace", namespace, "--create-namespace", "--wait", "--timeout", settle.String())
	prints(t, "install", out, `^STATUS: deployed$`, `^REVISION: 1$`, `^shop says Ahoy, revision 1\.$`)
	s.allReady(t)
	s.is(t, "configmap/shop", "{.data.GREETING} {.data.REVISION} {.data.AUTOSCALING}", "Ahoy 1 v2")
	if got := s.field(t, "configmap/shop", "{.data.NAMESPACES}"); !strings.Contains(got, "kube-system") {
		t.Errorf("namespaces that a template looked up: %q", got)
	}
	var version struct {
		ServerVersion struct{ GitVersion string } `json:"serverVersion"`
	}
	if err := json.Unmarshal([]byte(s.k.run(t, "version", "-o", "json")), &version); err != nil {
		t.Fatal(err)
	}
	s.is(t, "configmap/shop", "{.data.KUBERNETES}", version.ServerVersion.GitVersion)
	// The definition is a file of the chart, and the template asked whether there is such a kind.
	s.is(t, "sail/shop", "{.spec}", `{"area":10,"riggings":["main","1.25"]}`)
	for _, gone := range []string{"job/shop-pre-install", "configmap/shop-pre-install"} {
		if err := s.k.fails(t, "get", gone); !strings.Contains(err, "NotFound") {
			t.Errorf("%s, to be deleted when it succeeded: %s", gone, err)
		}
	}
	prints(t, "events", s.k.run(t, "get", "events", "--field-selector", "involvedObject.name=shop-pre-install"), `Completed +job/shop-pre-install`)
	prints(t, "post-install", s.k.run(t, "logs", "job/shop-post-install"), `^Ahoy$`, `nginx`)
	prints(t, "can-i", s.k.run(t, "auth", "can-i", "list", "configmaps", "--as=system:serviceaccount:"+namespace+":shop"), `^yes$`)
}

// inspect: the commands that only look.
func (s release) inspect(t *testing.T) {
	t.Helper()
	prints(t, "status", s.h.run(t, append(slices.Clone(s.status), "shop")...), `^STATUS: deployed$`, `^==> v1/Deployment$`, `^shop-store +1/1 `, `^shop-store-0 +1/1 +Running`, `^==> v1/Sail$`)
	prints(t, "list", s.h.run(t, "list"), `^shop\s+\S+\s+1\s.*\sdeployed\s+shop-0\.1\.0\s+1\.25\s*$`)
	prints(t, "get all", s.h.run(t, "get", "all", "shop"), `^kind: Sail$`, `^HOOKS:$`, `^# Source: shop/templates/store\.yaml$`)
	prints(t, "secrets", s.k.run(t, "get", "secrets", "-l", "owner=helm,status=deployed"), `^sh\.helm\.release\.v1\.shop\.v1 +helm\.sh/release\.v1 +1 `)
	prints(t, "test", s.h.run(t, "test", "shop", "--logs", "--timeout", settle.String()), `^Phase: +Succeeded$`, `nginx`)

	text := s.h.run(t, "template", "other", s.chart, "--validate")
	if out := s.k.feed(t, text, "create", "--dry-run=server", "-f", "-"); !strings.Contains(out, "statefulset.apps/other-store created (server dry run)") {
		t.Errorf("what template printed: %s", out)
	}
	prints(t, "dry run", s.h.run(t, "install", "other", s.chart, "--dry-run=server"), `^  NAMESPACES: .*kube-system`)
	prints(t, "the same name", s.h.fails(t, "install", "shop", s.chart), `cannot re-?use a name that is still in use`)
}

// upgrade: another image, another configuration, and what was made up stays.
func (s release) upgrade(t *testing.T) {
	t.Helper()
	out := s.h.run(t, "upgrade", "shop", s.chart, "--set", "image.tag=1.14.2,greeting=Hello", "--wait", "--timeout", settle.String())
	prints(t, "upgrade", out, `^REVISION: 2$`, `^shop says Hello, revision 2\.$`)
	s.allReady(t)
	s.is(t, "deployment/shop", "{.spec.template.spec.containers[0].image}", "nginx:1.14.2")
	s.is(t, "sail/shop", "{.spec}", `{"area":20,"riggings":["main","1.14.2"]}`)
	prints(t, "pre-upgrade", s.k.run(t, "logs", "job/shop-pre-upgrade"), `^before 1$`)
	prints(t, "post-upgrade", s.k.run(t, "logs", "job/shop-post-upgrade"), `^after 2$`)
}

// upgradeInVain: one that is taken back because its last job fails, one that is given up because its pods do not come.
func (s release) upgradeInVain(t *testing.T) {
	t.Helper()
	out := s.h.fails(t, "upgrade", "shop", s.chart, "--reuse-values", "--set", "image.tag=1,migration.exitCode=3", s.undo, "--timeout", "2m")
	prints(t, "upgrade that undoes itself", out, `post-upgrade hooks failed`, `rolled back due to`)
	s.allReady(t)
	s.is(t, "deployment/shop", "{.spec.template.spec.containers[0].image}", "nginx:1.14.2")
	prints(t, "post-upgrade", s.k.run(t, "logs", "job/shop-post-upgrade"), `^after 3$`)
	s.history(t, "1 superseded", "2 superseded", "3 failed", "4 deployed")

	out = s.h.fails(t, "upgrade", "shop", s.chart, "--reuse-values", "--set", "image.tag=none,migration.exitCode=0", "--no-hooks", "--wait", "--timeout", "3s")
	prints(t, "upgrade to no image", out, `UPGRADE FAILED`)
	prints(t, "status", s.h.run(t, "status", "shop"), `^STATUS: failed$`)
	s.is(t, "deployment/shop", "{.spec.template.spec.containers[0].image}", "nginx:none")
}

// rollBack to the first revision.
func (s release) rollBack(t *testing.T) {
	t.Helper()
	prints(t, "rollback", s.h.run(t, "rollback", "shop", "1", "--wait", "--timeout", settle.String()), `^Rollback was a success! Happy Helming!$`)
	s.allReady(t)
	s.is(t, "deployment/shop", "{.spec.template.spec.containers[0].image}", "nginx:1.25")
	s.is(t, "configmap/shop", "{.data.GREETING}", "Ahoy")
	s.is(t, "sail/shop", "{.spec}", `{"area":10,"riggings":["main","1.25"]}`)
	prints(t, "post-rollback", s.k.run(t, "logs", "job/shop-post-rollback"), `^back to Ahoy$`)
	s.history(t, "1 superseded", "2 superseded", "3 failed", "4 superseded", "5 failed", "6 deployed")
}

// overwrite is an upgrade that writes objects whole, in place of patches: Services without the address that they were given.
func (s release) overwrite(t *testing.T) {
	t.Helper()
	address := s.field(t, "service/shop", "{.spec.clusterIP}")
	s.h.run(t, append([]string{"upgrade", "shop", s.chart, "--set", "greeting=Goodbye", "--timeout", settle.String()}, s.replace...)...)
	s.is(t, "service/shop", "{.spec.clusterIP}", address)
	s.is(t, "configmap/shop", "{.data.GREETING}", "Goodbye")
}

// uninstall: claims of StatefulSets, definitions, hooks and what is to be kept stay.
func (s release) uninstall(t *testing.T) {
	t.Helper()
	prints(t, "uninstall", s.h.run(t, "uninstall", "shop", "--wait", "--timeout", settle.String()), `^release "shop" uninstalled$`, `\[Secret\] shop`)
	prints(t, "pre-delete", s.k.run(t, "logs", "job/shop-pre-delete"), `nginx`)
	left := s.k.run(t, "get", "deployments,replicasets,statefulsets,daemonsets,cronjobs,services,ingresses,hpa,pdb,roles,rolebindings,sails", "-o", "name")
	if left != "" {
		t.Errorf("left over:\n%s", left)
	}
	s.is(t, "pvc/data-shop-store-0", "{.status.phase}", "Bound")
	if out := s.k.run(t, "get", "jobs", "-o", "name"); !strings.Contains(out, "job.batch/shop-post-install\n") {
		t.Errorf("jobs of hooks: %s", out)
	}
	if out := s.h.run(t, "list", "--short") + s.k.run(t, "get", "secrets", "-l", "owner=helm", "-o", "name"); out != "" {
		t.Errorf("releases: %s", out)
	}
}

// allReady: what Helm has waited for is so, without waiting any more.
func (s release) allReady(t testing.TB) {
	t.Helper()
	const fields = `jsonpath={range .items[*]}{.kind} {.status.updatedReplicas} {.status.readyReplicas}{.status.phase}{"\n"}{end}`
	want := "Deployment 2 2\nStatefulSet 1 1\nPersistentVolumeClaim  Bound\n"
	if got := s.k.run(t, "get", "deployment/shop", "statefulset/shop-store", "pvc/data-shop-store-0", "-o", fields); got != want {
		t.Errorf("ready:\n%s", got)
	}
}

// history is a list as in "2 superseded".
func (s release) history(t testing.TB, want ...string) {
	t.Helper()
	var revisions []struct {
		Revision int
		Status   string
	}
	if err := json.Unmarshal([]byte(s.h.run(t, "history", "shop", "-o", "json")), &revisions); err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, r := range revisions {
		got = append(got, fmt.Sprint(r.Revision, " ", r.Status))
	}
	if strings.Join(got, ", ") != strings.Join(want, ", ") {
		t.Errorf("history: %q, want %q", got, want)
	}
}

func (s release) field(t testing.TB, object, path string) string {
	t.Helper()
	return s.k.run(t, "get", object, "-o", "jsonpath="+path)
}

func (s release) is(t testing.TB, object, path, want string) {
	t.Helper()
	if got := s.field(t, object, path); got != want {
		t.Errorf("%s %s: %q, want %q", object, path, got, want)
	}
}
