package master

import (
	"bytes"
	"context"
	"log/slog"
	"net"
	"net/http/httptest"
	"net/netip"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/whalepod/whalepod/node/membership"
)

// silence is a gossip among nobody.
type silence struct{}

func (silence) Members() []membership.Member  { return nil }
func (silence) Dead() map[string]time.Time    { return nil }
func (silence) Changed() <-chan struct{}      { return nil }
func (silence) Run(ctx context.Context) error { <-ctx.Done(); return nil }

func config(dir string) Config {
	return Config{
		DataDir: dir, Advertise: netip.MustParseAddr("127.0.0.1"), APIPort: 6443, AgentsPort: 6444,
		ServiceCIDR: netip.MustParsePrefix("10.254.0.0/16"), PodCIDR: netip.MustParsePrefix("10.244.0.0/16"),
		ClusterDomain: "cluster.local", DNSIP: netip.MustParseAddr("10.254.254.1"), NodeGrace: 10 * time.Second, NotReadyToleration: 10 * time.Second,
		Gossip: silence{}, Version: "v1.36.3", Logger: slog.New(slog.DiscardHandler),
	}
}

// start runs a master until the test ends or stop is called.
func start(t *testing.T, dir string) (m *Master, stop func()) {
	t.Helper()
	listen := func() net.Listener {
		l, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		return l
	}
	cfg := config(dir)
	cfg.API, cfg.Agents = listen(), listen()
	m, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- m.Run(ctx) }()
	ended := false
	stop = func() {
		cancel()
		if err := <-done; err != nil && !ended {
			t.Error(err)
		}
		ended = true
		done <- nil
	}
	t.Cleanup(stop)
	return m, stop
}

func read(t *testing.T, parts ...string) []byte {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(parts...))
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// A backup makes the same cluster again on an empty machine: nodes and people go on trusting it.
func TestBackupHoldsTheIdentity(t *testing.T) {
	dir := t.TempDir()
	first := filepath.Join(dir, "first")
	m, stop := start(t, first)
	w := httptest.NewRecorder()
	m.serveBackup(w, httptest.NewRequestWithContext(t.Context(), "GET", BackupPath, nil))
	stop()
	backup := filepath.Join(dir, "backup")
	whole := w.Body.Bytes()
	if err := os.WriteFile(backup, whole, 0o600); err != nil {
		t.Fatal(err)
	}

	second := filepath.Join(dir, "second")
	if err := Restore(t.Context(), backup, second); err != nil {
		t.Fatal(err)
	}
	for _, file := range []string{"ca.crt", "ca.key", "gossip.key"} {
		if !bytes.Equal(read(t, first, pkiDir, file), read(t, second, pkiDir, file)) {
			t.Errorf("%s is another", file)
		}
	}
	again, _ := start(t, second)
	if again.pki.CAHash() != m.pki.CAHash() {
		t.Error("the restored master made another CA")
	}

	// An identity that is there already stays.
	third := filepath.Join(dir, "third")
	_, stop = start(t, third)
	stop()
	if err := os.Remove(filepath.Join(third, storeFile)); err != nil {
		t.Fatal(err)
	}
	ca := read(t, third, pkiDir, "ca.crt")
	if err := Restore(t.Context(), backup, third); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(ca, read(t, third, pkiDir, "ca.crt")) {
		t.Error("the CA that was there was replaced")
	}

	// Of a copy that is not whole nothing is put in place.
	for _, size := range []int{0, 10, len(whole) / 2, len(whole) - 1} {
		if err := os.WriteFile(backup, whole[:size], 0o600); err != nil {
			t.Fatal(err)
		}
		cut := filepath.Join(dir, "cut")
		err := Restore(t.Context(), backup, cut)
		if _, missing := os.Stat(filepath.Join(cut, storeFile)); err == nil || missing == nil {
			t.Errorf("%d bytes of %d: %v, no state there: %v", size, len(whole), err, missing)
		}
	}
}
