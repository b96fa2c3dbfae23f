package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"sync/atomic"
	"syscall"
	"time"

	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
)

// loopback is where a wp-master without nodes listens, its gossip included.
const loopback = "127.0.0.1"

// masterProcess is a wp-master by itself: no node, no Docker.
type masterProcess struct {
	cmd   *exec.Cmd
	url   string
	nodes string // where agents connect to, as host:port
	dir   string
	log   *os.File
	ready time.Duration // from the start of the process to the first "ok" of /readyz
	tls   *tls.Config   // of the administrator; see connect
	pods  atomic.Int64  // how many were created
}

// startMaster starts wp-master on free ports and waits until it is ready.
func (b *bench) startMaster(ctx context.Context, dir string, flags ...string) (*masterProcess, error) {
	ports, err := freePorts(4)
	if err != nil {
		return nil, err
	}
	m := &masterProcess{dir: dir, url: fmt.Sprintf("https://%s:%d", loopback, ports[0]), nodes: fmt.Sprintf("%s:%d", loopback, ports[1])}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, err
	}
	if m.log, err = os.OpenFile(filepath.Join(dir, "log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644); err != nil {
		return nil, err
	}
	m.cmd = exec.Command(filepath.Join(b.bin, "wp-master"), append(flags, "--data-dir", filepath.Join(dir, "data"), "--bind", loopback,
		"--advertise-address", loopback, "--api-port", fmt.Sprint(ports[0]), "--agents-port", fmt.Sprint(ports[1]),
		"--gossip-port", fmt.Sprint(ports[2]), "--node-gossip-port", fmt.Sprint(ports[3]))...)
	m.cmd.Stdout, m.cmd.Stderr = m.log, m.log
	// Whether it is ready is no secret, and its CA may not be written yet.
	probe := client(&tls.Config{InsecureSkipVerify: true})
	defer probe.CloseIdleConnections()
	began := time.Now()
	if err := m.cmd.Start(); err != nil {
		return nil, errors.Join(err, m.log.Close())
	}
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	for {
		if err := do(ctx, probe, http.MethodGet, m.url+"/readyz", "", nil, nil); err == nil {
			m.ready = time.Since(began)
			return m, nil
		}
		if ctx.Err() != nil {
			return nil, errors.Join(fmt.Errorf("wp-master is not ready:\n%s", m.logTail()), m.stop())
		}
		wait(ctx, 2*time.Millisecond)
	}
}

func (m *masterProcess) logTail() []byte {
	data, err := os.ReadFile(m.log.Name())
	if err != nil {
		return nil
	}
	return data[max(0, len(data)-2000):]
}

// stop ends the process in order.
func (m *masterProcess) stop() error {
	defer m.log.Close()
	if err := m.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		return err
	}
	kill := time.AfterFunc(20*time.Second, func() { _ = m.cmd.Process.Kill() })
	defer kill.Stop()
	return m.cmd.Wait()
}

// connect returns an administrator's client with a connection of its own.
func (m *masterProcess) connect() (*http.Client, error) {
	if m.tls == nil {
		cfg, err := clientcmd.BuildConfigFromFlags("", filepath.Join(m.dir, "data", "admin.kubeconfig"))
		if err != nil {
			return nil, err
		}
		if m.tls, err = rest.TLSConfigFor(cfg); err != nil {
			return nil, err
		}
	}
	return client(m.tls), nil
}

func client(cfg *tls.Config) *http.Client {
	return &http.Client{Transport: &http.Transport{TLSClientConfig: cfg.Clone(), ForceAttemptHTTP2: true, DisableCompression: true}}
}

// do makes one request and reads its answer to the end: into answer if that is not
// nil, else nowhere.
func do(ctx context.Context, c *http.Client, method, url, contentType string, body []byte, answer any) error {
	req, err := http.NewRequestWithContext(ctx, method, url, bytes.NewReader(body))
	if err != nil {
		return err
	}
	if contentType != "" {
		req.Header.Set("Content-Type", contentType)
	}
	return send(c, req, answer)
}

func send(c *http.Client, req *http.Request, answer any) error {
	res, err := c.Do(req)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	if res.StatusCode/100 != 2 {
		text, _ := io.ReadAll(io.LimitReader(res.Body, 1000))
		return fmt.Errorf("%s %s: %s: %s", req.Method, req.URL.Path, res.Status, text)
	}
	if answer != nil {
		return json.NewDecoder(res.Body).Decode(answer)
	}
	_, err = io.Copy(io.Discard, res.Body)
	return err
}

// freePorts finds ports that nothing uses, by TCP and UDP.
func freePorts(n int) ([]int, error) {
	var ports []int
	var open []io.Closer
	defer func() {
		for _, c := range open {
			c.Close()
		}
	}()
	for try := 0; len(ports) < n; try++ {
		if try > 100 {
			return nil, errors.New("no free ports on the loopback address")
		}
		l, err := net.Listen("tcp4", net.JoinHostPort(loopback, "0"))
		if err != nil {
			return nil, err
		}
		open = append(open, l)
		port := l.Addr().(*net.TCPAddr).Port
		if p, err := net.ListenPacket("udp4", l.Addr().String()); err == nil {
			open, ports = append(open, p), append(ports, port)
		}
	}
	return ports, nil
}

// start measures from the start of the process until it serves: the first time,
// when it makes its certificates, and again on the same data.
func (b *bench) start(ctx context.Context) error {
	var first, again []time.Duration
	for i := range 5 {
		dir := filepath.Join(b.dir, fmt.Sprint("start", i))
		for _, took := range []*[]time.Duration{&first, &again} {
			m, err := b.startMaster(ctx, dir)
			if err != nil {
				return err
			}
			*took = append(*took, m.ready)
			if err := m.stop(); err != nil {
				return err
			}
		}
	}
	budget := atMost(0.5, "s")
	b.hold("first start, certificates made", percentile(first, 0.5).Seconds(), "s", budget)
	b.hold("again", percentile(again, 0.5).Seconds(), "s", budget)
	return nil
}

// percentile of some times, 0 of none.
func percentile(all []time.Duration, p float64) time.Duration {
	if len(all) == 0 {
		return 0
	}
	sorted := slices.Sorted(slices.Values(all))
	return sorted[min(len(sorted)-1, int(p*float64(len(sorted))))]
}
