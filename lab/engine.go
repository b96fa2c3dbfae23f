package lab

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"syscall"
	"time"
)

// engineSocket is the engine's socket as the node itself sees it.
const engineSocket = "unix:///run/docker.sock"

// engineData is where the node's engine keeps images and containers. It outlives
// the lab, so that images are pulled once.
func (n *Node) engineData() string { return filepath.Join(n.lab.cfg.Cache, "engines", n.Name) }

// engineConfig is the node's daemon.json. Docker's own iptables rules and its
// FORWARD policy of DROP stay on, because that is what servers have.
func (n *Node) engineConfig() map[string]any {
	registry := n.lab.cfg.registry(registryPort)
	return map[string]any{
		"data-root":           n.engineData(),
		"hosts":               []string{engineSocket, "unix://" + n.Socket()},
		"exec-opts":           []string{"native.cgroupdriver=cgroupfs"},
		"cgroup-parent":       n.lab.cfg.cgroup() + "/" + n.Name,
		"registry-mirrors":    []string{"http://" + registry},
		"insecure-registries": []string{registry, n.lab.cfg.registry(privatePort)},
		"log-opts":            map[string]string{"max-size": "10m", "max-file": "2"},
	}
}

// startEngine starts the node's Docker Engine and waits until it answers.
func (n *Node) startEngine(ctx context.Context) error {
	if err := os.MkdirAll(n.engineData(), 0o711); err != nil {
		return err
	}
	config, err := json.MarshalIndent(n.engineConfig(), "", "  ")
	if err != nil {
		return err
	}
	file := filepath.Join(n.Dir(), "daemon.json")
	if err := os.WriteFile(file, config, 0o644); err != nil {
		return err
	}
	// Its pid file and containerd are below the node's own /run.
	p, err := n.lab.start(ctx, daemon{name: n.daemon(engine), argv: n.enter([]string{"dockerd", "--config-file", file}), fork: true})
	if err != nil {
		return err
	}
	if err := n.lab.remember(n.daemon(engine), p); err != nil {
		return err
	}
	return n.lab.until(ctx, n.daemon(engine), p, 60*time.Second, func(ctx context.Context) error {
		return n.Engine(ctx, http.MethodGet, "/_ping", nil, nil)
	})
}

// RestartDocker ends the node's engine in order, as "systemctl restart docker"
// does, and starts it again.
func (n *Node) RestartDocker(ctx context.Context) error {
	if err := n.lab.process(n.daemon(engine)).stop(ctx, 30*time.Second); err != nil {
		return err
	}
	return n.startEngine(ctx)
}

// KillDocker kills the node's engine. Its containers stay.
func (n *Node) KillDocker(ctx context.Context) error {
	return n.lab.process(n.daemon(engine)).kill(ctx)
}

// StartDocker starts the engine after KillDocker.
func (n *Node) StartDocker(ctx context.Context) error { return n.startEngine(ctx) }

// FreezeDocker lets the node's engine hang: it runs and takes connections, and answers nothing.
func (n *Node) FreezeDocker() error { return n.lab.process(n.daemon(engine)).signal(syscall.SIGSTOP) }

// ThawDocker lets it go on after FreezeDocker. Its parent goes on too: nsenter stops itself when its child is stopped, and
// would not notice the child's end.
func (n *Node) ThawDocker() error {
	p := n.lab.process(n.daemon(engine))
	if s, err := readStat(p.PID); err == nil && p.alive() {
		if parent, err := identify(s.parent); err == nil {
			if err := parent.signal(syscall.SIGCONT); err != nil {
				return err
			}
		}
	}
	return p.signal(syscall.SIGCONT)
}

// engineClient talks HTTP over the engine's socket. No library: the lab needs
// five calls of its API.
func (n *Node) engineClient() *http.Client {
	return &http.Client{Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", n.Socket())
		},
	}}
}

// Engine calls the Docker Engine's API on this node and reads its JSON answer into
// out, where that is not nil.
func (n *Node) Engine(ctx context.Context, method, path string, in, out any) error {
	var body io.Reader
	if in != nil {
		data, err := json.Marshal(in)
		if err != nil {
			return err
		}
		body = bytes.NewReader(data)
	}
	res, err := n.engineDo(ctx, method, path, body)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	if out == nil {
		_, err = io.Copy(io.Discard, res.Body)
		return err
	}
	return json.NewDecoder(res.Body).Decode(out)
}

func (n *Node) engineDo(ctx context.Context, method, path string, body io.Reader) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, method, "http://docker"+path, body)
	if err != nil {
		return nil, err
	}
	if body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	res, err := n.engineClient().Do(req)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", n.Name, err)
	}
	if res.StatusCode >= 400 {
		defer res.Body.Close()
		var e struct{ Message string }
		_ = json.NewDecoder(io.LimitReader(res.Body, 64<<10)).Decode(&e)
		return nil, fmt.Errorf("%s: docker: %s (%s)", n.Name, e.Message, res.Status)
	}
	return res, nil
}

// Pull lets the node's engine pull an image.
func (n *Node) Pull(ctx context.Context, image string) error {
	res, err := n.engineDo(ctx, http.MethodPost, "/images/create?fromImage="+url.QueryEscape(image), nil)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	lines := bufio.NewScanner(res.Body)
	for lines.Scan() {
		var m struct{ Error string }
		if json.Unmarshal(lines.Bytes(), &m) == nil && m.Error != "" {
			return fmt.Errorf("%s: %s", n.Name, m.Error)
		}
	}
	return lines.Err()
}

// removeContainers removes every container of the node's engine with its volumes:
// those of a former lab are not part of this one.
func (n *Node) removeContainers(ctx context.Context) error {
	var all []struct {
		ID string `json:"Id"`
	}
	if err := n.Engine(ctx, http.MethodGet, "/containers/json?all=1", nil, &all); err != nil {
		return err
	}
	var errs []error
	for _, c := range all {
		errs = append(errs, n.Engine(ctx, http.MethodDelete, "/containers/"+c.ID+"?force=1&v=1", nil, nil))
	}
	return errors.Join(errs...)
}
