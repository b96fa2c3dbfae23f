package docker

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/docker/docker/client"

	"github.com/whalepod/whalepod/node/runtime"
)

// Limits of single calls, used when the caller's context has no earlier one. Creating and starting wait for disks.
const (
	readLimit  = 30 * time.Second
	writeLimit = 2 * time.Minute
	// loadLimit bounds importing the pause image (a few KB).
	loadLimit = time.Minute
	// inspectors is how many inspections run at once; more only queue inside the engine.
	inspectors = 4
)

// Config of an Engine.
type Config struct {
	// Host of the engine, as in unix:///var/run/docker.sock, which is the default.
	Host string
	// Node is the name of this node: several agents can share one engine, each sees its own containers only.
	Node string
	Log  *slog.Logger
}

// Engine is runtime.Engine on a Docker Engine.
type Engine struct {
	host   string
	node   string
	log    *slog.Logger
	cli    atomic.Pointer[client.Client]
	states states
	strays strays
	// exports of an earlier agent are ended once.
	exports sync.Once

	// mu guards what was learned about the engine; it is never held during a call.
	mu    sync.Mutex
	feats *features
	// oom says whether the engine may give a negative oom_score_adj; nil until tried.
	oom *bool
}

var _ runtime.Engine = (*Engine)(nil)

// New prepares an Engine; it does not call Docker.
func New(cfg Config) (*Engine, error) {
	if cfg.Host == "" {
		cfg.Host = client.DefaultDockerHost
	}
	if cfg.Node == "" {
		return nil, errors.New("docker: a node name is needed")
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	d := &Engine{host: cfg.Host, node: cfg.Node, log: cfg.Log.With("component", "docker")}
	d.states.init()
	cli, err := d.dial()
	if err != nil {
		return nil, err
	}
	d.cli.Store(cli)
	return d, nil
}

// Close drops idle connections.
func (d *Engine) Close() error { return d.cli.Load().Close() }

func (d *Engine) dial() (*client.Client, error) {
	opts := []client.Opt{client.WithHost(d.host), client.WithAPIVersionNegotiation()}
	if path, ok := strings.CutPrefix(d.host, "unix://"); ok {
		opts = append(opts, client.WithDialContext(func(ctx context.Context, _, _ string) (net.Conn, error) {
			var dialer net.Dialer
			conn, err := dialer.DialContext(ctx, "unix", path)
			if err == nil && ctx.Value(tiedKey{}) != nil {
				context.AfterFunc(ctx, func() { conn.Close() })
			}
			return conn, err
		}))
	}
	cli, err := client.NewClientWithOpts(opts...)
	if err != nil {
		return nil, fmt.Errorf("docker: %w", err)
	}
	return cli, nil
}

// tiedKey marks contexts whose end closes the connection dialed under them. Exec and attach hijack their connection,
// which net/http then no longer watches; without this an engine that hangs would hold them for ever.
type tiedKey struct{}

func tied(ctx context.Context) context.Context { return context.WithValue(ctx, tiedKey{}, true) }

// renegotiate replaces the client when the engine behind the socket now speaks another version of the API (it was
// upgraded while we ran). A negotiated client only ever goes down, and Engine 29 refuses versions before 1.44.
func (d *Engine) renegotiate(ctx context.Context) error {
	fresh, err := d.dial()
	if err != nil {
		return err
	}
	ping, err := fresh.Ping(ctx)
	if err != nil {
		return classify(err)
	}
	fresh.NegotiateAPIVersionPing(ping)
	old := d.cli.Load()
	if old.ClientVersion() != fresh.ClientVersion() && d.cli.CompareAndSwap(old, fresh) {
		d.mu.Lock()
		d.feats = nil
		d.mu.Unlock()
		fresh = old
	}
	return fresh.Close()
}

// bounded gives ctx a limit if it has no earlier one.
func bounded(ctx context.Context, limit time.Duration) (context.Context, context.CancelFunc) {
	return context.WithTimeout(ctx, limit)
}

// features of the engine that change what we ask for.
type features struct {
	// selinux: the daemon labels containers, which could then not read the agent's files.
	selinux bool
	// shareable: IpcMode knows the word (API 1.32, Engine 17.11); before it every container's IPC was shareable.
	shareable bool
	// recursive: read-only mounts can hold for what is mounted below them (API 1.44, Engine 25.0).
	recursive bool
	// given: the only capabilities that the machine has to give; nil when it has all.
	given []string
}

func (d *Engine) features(ctx context.Context) (features, error) {
	d.mu.Lock()
	known := d.feats
	d.mu.Unlock()
	if known != nil {
		return *known, nil
	}
	ctx, cancel := bounded(ctx, readLimit)
	defer cancel()
	cli := d.cli.Load()
	info, err := cli.Info(ctx)
	if err != nil {
		return features{}, classify(err)
	}
	f := features{
		given: machineCapabilities(),
		selinux: slices.ContainsFunc(info.SecurityOptions, func(s string) bool {
			return s == "selinux" || strings.HasPrefix(s, "name=selinux")
		}),
		shareable: cli.NewVersionError(ctx, "1.32", "shareable IPC") == nil,
		recursive: cli.NewVersionError(ctx, "1.44", "recursive read-only mounts") == nil,
	}
	d.mu.Lock()
	d.feats = &f
	d.mu.Unlock()
	return f, nil
}

// Ping implements runtime.Engine.
func (d *Engine) Ping(ctx context.Context) error {
	ctx, cancel := bounded(ctx, readLimit)
	defer cancel()
	_, err := d.cli.Load().Ping(ctx)
	return classify(err)
}

// Info implements runtime.Engine.
func (d *Engine) Info(ctx context.Context) (runtime.Info, error) {
	ctx, cancel := bounded(ctx, readLimit)
	defer cancel()
	info, err := d.cli.Load().Info(ctx)
	if err != nil {
		return runtime.Info{}, classify(err)
	}
	out := runtime.Info{
		Version: info.ServerVersion, OperatingSystem: info.OperatingSystem, KernelVersion: info.KernelVersion,
		Architecture: info.Architecture, CgroupVersion: 1, CgroupDriver: info.CgroupDriver, RootDir: info.DockerRootDir,
	}
	if info.CgroupVersion == "2" { // empty before API 1.41
		out.CgroupVersion = 2
	}
	return out, nil
}
