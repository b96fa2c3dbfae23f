package main

import (
	"cmp"
	"context"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"time"
)

const (
	coreDNSVersion = "v1.15.0"
	// coreDNSLimit is for building CoreDNS, which is done once.
	coreDNSLimit = 20 * time.Minute
	// dnsServices is how many there are while DNS servers are asked; BenchmarkOneCore knows their names.
	dnsServices = 5000
)

// coreDNSMain is CoreDNS with the plugins that Kubernetes' own configuration of it uses and that cost a query time.
const coreDNSMain = `package main

import (
	_ "github.com/coredns/coredns/core/dnsserver"
	"github.com/coredns/coredns/coremain"
	_ "github.com/coredns/coredns/plugin/bind"
	_ "github.com/coredns/coredns/plugin/cache"
	_ "github.com/coredns/coredns/plugin/errors"
	_ "github.com/coredns/coredns/plugin/kubernetes"
)

func main() { coremain.Run() }
`

// coreDNS builds it from the module proxy, in a module that is made for that alone, and returns its path in the lab's cache.
func coreDNS(ctx context.Context) (string, error) {
	dir := filepath.Join(cmp.Or(os.Getenv("WP_CACHE"), "/var/cache/whalepod"), "coredns", coreDNSVersion)
	path := filepath.Join(dir, "coredns")
	if _, err := os.Stat(path); err == nil {
		return path, nil
	}
	fmt.Println("   building CoreDNS", coreDNSVersion)
	ctx, cancel := context.WithTimeout(ctx, coreDNSLimit)
	defer cancel()
	tmp, err := os.MkdirTemp("", "coredns")
	if err != nil {
		return "", err
	}
	defer os.RemoveAll(tmp)
	for name, text := range map[string]string{
		"main.go": coreDNSMain, "go.mod": "module coredns\n\ngo 1.25.0\n\nrequire github.com/coredns/coredns " + coreDNSVersion + "\n",
	} {
		if err := os.WriteFile(filepath.Join(tmp, name), []byte(text), 0o644); err != nil {
			return "", err
		}
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", err
	}
	cmd := exec.CommandContext(ctx, "go", "build", "-mod=mod", "-o", path+".new", ".")
	cmd.Dir = tmp
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("building CoreDNS: %w\n%s", err, out[max(0, len(out)-2000):])
	}
	return path, os.Rename(path+".new", path)
}

// dns measures our server and CoreDNS, one after the other: each has one core and knows 5,000 Services, CoreDNS from our own API.
// The clients have the other core. Without a module proxy there is no CoreDNS, and ours is measured alone.
func (b *bench) dns(ctx context.Context) error {
	var env []string
	if program, err := coreDNS(ctx); err != nil {
		fmt.Println("   without CoreDNS:", err)
	} else {
		m, err := b.startMaster(ctx, filepath.Join(b.dir, "dns"))
		if err != nil {
			return err
		}
		defer func() { _ = m.stop() }()
		if _, _, err := m.each(ctx, 16, dnsServices, m.createService); err != nil {
			return err
		}
		env = []string{"WP_COREDNS=" + program, "WP_KUBECONFIG=" + filepath.Join(m.dir, "data", "admin.kubeconfig")}
	}
	found, err := goBenchWith(ctx, env, "./dns", "^BenchmarkOneCore$", "-benchtime", "1x", "-cpu", "2")
	for _, s := range []struct{ name, what string }{
		{"whalepod", "ours"}, {"coredns", "CoreDNS " + coreDNSVersion}, {"coredns-cache", "CoreDNS, with its cache"},
	} {
		f, ok := found["OneCore/"+s.name]
		if !ok {
			continue
		}
		budget := bound{}
		if s.name == "whalepod" {
			budget = atLeast(100_000, "queries/s")
		}
		b.hold(s.what+", on one core", f["queries/s"], "queries/s", budget,
			fmt.Sprintf("%s for each second of processor time; at 20,000/s p50 %s, p99 %s ms, %s %% lost; %s MB",
				figure(f["queries/core-s"]), figure(f["p50-ms"]), figure(f["p99-ms"]), figure(f["lost-%"]), figure(f["MB"])))
	}
	return err
}

func (m *masterProcess) createService(ctx context.Context, c *http.Client, i int) error {
	text := fmt.Sprintf(`{"kind":"Service","apiVersion":"v1","metadata":{"name":"svc-%d"},"spec":{"selector":{"app":"svc-%d"},"ports":[{"name":"http","port":80}]}}`, i, i)
	return do(ctx, c, http.MethodPost, m.url+"/api/v1/namespaces/default/services", "application/json", []byte(text), nil)
}
