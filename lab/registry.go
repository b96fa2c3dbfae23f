package lab

import (
	"context"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"time"

	"github.com/whalepod/whalepod/lab/images"
)

// registryConfig is docker-registry's configuration. Read-only: what it serves is
// the cache that several labs share.
const registryConfig = `version: 0.1
log:
  level: warn
  accesslog:
    disabled: true
storage:
  filesystem:
    rootdirectory: %q
  maintenance:
    readonly:
      enabled: true
http:
  addr: %q
`

// passwordConfig goes after it for the registry that asks for a password, with
// the file that has it.
const passwordConfig = `auth:
  htpasswd:
    realm: lab
    path: %q
`

// What the private registry asks for.
const (
	RegistryUser     = "whale"
	RegistryPassword = "open sesame"
	// registryLogin is both as docker-registry wants them, with bcrypt.
	registryLogin = "whale:$2y$04$4btZrpX6A.XXeN6z9DU5eOxzhrW3HM5xNFCBRRoyB.jsQ5nqEf7VC\n"
)

// store is where the images from this source ("lab" or "hub") are.
func (c Config) store(source string) images.Store {
	return images.Store{Dir: filepath.Join(c.Cache, "images", source)}
}

// PrepareImages fills the registry's storage, unless it is full already. The
// images are the lab's own or, where Docker Hub can be reached (and Config.Images
// is "auto"), the real ones.
func (l *Lab) PrepareImages(ctx context.Context) (string, error) {
	source, note, err := fillCache(ctx, l.cfg, func(m string) { l.note("%s", m) })
	if err != nil {
		return "", err
	}
	return note, l.record(func(s *state) { s.Images = source })
}

// FillCache is PrepareImages without a lab, so that "make demo" can build images
// while it compiles.
func FillCache(ctx context.Context, cfg Config, log func(string)) error {
	cfg, err := cfg.withDefaults()
	if err != nil {
		return err
	}
	_, _, err = fillCache(ctx, cfg, log)
	return err
}

func fillCache(ctx context.Context, cfg Config, log func(string)) (source, note string, err error) {
	source = cfg.Images
	if source == "auto" {
		source = "lab"
		if images.HubReachable(ctx) {
			source = "hub"
		}
	}
	if source == "hub" {
		hub := images.Hub{Store: cfg.store(source), Arch: runtime.GOARCH, Log: log}
		return source, "from Docker Hub", hub.Copy(ctx, images.HubImages)
	}
	made := 0
	b := images.Builder{
		Cache: filepath.Join(cfg.Cache, "images"), Store: cfg.store(source), Programs: cfg.Bin,
		Log: func(m string) { made++; log("built " + m) },
	}
	if err := b.Build(ctx); err != nil {
		return source, "", err
	}
	if made == 0 {
		return source, "cached", nil
	}
	return source, "built from this machine's package sources", nil
}

// StartRegistry starts the registry beside the nodes, as their engines' mirror of
// Docker Hub.
func (l *Lab) StartRegistry(ctx context.Context) (string, error) {
	return l.startRegistry(ctx, "registry", registryPort, "")
}

// StartPrivateRegistry starts, unless it runs, a second registry with the same
// images that asks for RegistryUser and RegistryPassword, and returns its address.
func (l *Lab) StartPrivateRegistry(ctx context.Context) (string, error) {
	const name = "private-registry"
	if l.process(name).alive() {
		return l.cfg.registry(privatePort), nil
	}
	login := l.path(name + ".htpasswd")
	if err := os.WriteFile(login, []byte(registryLogin), 0o600); err != nil {
		return "", err
	}
	return l.startRegistry(ctx, name, privatePort, login)
}

// registry is the address of one.
func (c Config) registry(port int) string { return fmt.Sprintf("%s:%d", c.address(1), port) }

// startRegistry starts one, and waits until it answers. A login file makes it ask
// for a password.
func (l *Lab) startRegistry(ctx context.Context, name string, port int, login string) (string, error) {
	addr := l.cfg.registry(port)
	l.mu.Lock()
	storage := l.cfg.store(l.state.Images).Dir
	l.mu.Unlock()
	argv := []string{"nsenter", "--net=" + netnsPath(l.cfg.labName())}
	if program, err := exec.LookPath("docker-registry"); err == nil {
		file, config := l.path(name+".yml"), fmt.Appendf(nil, registryConfig, storage, addr)
		if login != "" {
			config = fmt.Appendf(config, passwordConfig, login)
		}
		if err := os.WriteFile(file, config, 0o644); err != nil {
			return "", err
		}
		argv = append(argv, program, "serve", file)
	} else {
		// Not every distribution has the package; ours serves the same files.
		argv = append(argv, filepath.Join(l.cfg.Bin, "wpctl"), "demo", "registry", "--storage", storage, "--listen", addr)
		if login != "" {
			argv = append(argv, "--login", RegistryUser+":"+RegistryPassword)
		}
	}
	p, err := l.start(ctx, daemon{name: name, argv: argv})
	if err != nil {
		return "", err
	}
	if err := l.remember(name, p); err != nil {
		return "", err
	}
	client := l.HTTPClient(2 * time.Second)
	defer client.CloseIdleConnections()
	user := ""
	if login != "" {
		user = url.UserPassword(RegistryUser, RegistryPassword).String() + "@"
	}
	return addr, l.until(ctx, name, p, 15*time.Second, func(ctx context.Context) error {
		return get(ctx, client, "http://"+user+addr+"/v2/")
	})
}

// get succeeds when the answer is 200.
func get(ctx context.Context, client *http.Client, url string) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	res, err := client.Do(req)
	if err != nil {
		return err
	}
	res.Body.Close()
	if res.StatusCode != http.StatusOK {
		return fmt.Errorf("%s: %s", url, res.Status)
	}
	return nil
}
