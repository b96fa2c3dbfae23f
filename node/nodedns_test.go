package node

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// resolver is a machine's: its resolv.conf, and a resolvectl that only notes what it is told.
type resolver struct {
	*nodeDNS
	t   *testing.T
	log bytes.Buffer

	mu   sync.Mutex
	told []string
	fail error
}

func newResolver(t *testing.T, text string) *resolver {
	r := &resolver{t: t}
	a := &Agent{cfg: Config{ResolvConf: filepath.Join(t.TempDir(), "resolv.conf")}, log: slog.New(slog.NewTextHandler(&r.log, nil))}
	r.nodeDNS = a.nodeDNS(&cluster{
		dns: netip.MustParseAddr("10.254.254.1"), domain: "cluster.local", service: netip.MustParsePrefix("10.254.0.0/16"), pods: netip.MustParsePrefix("10.240.0.0/12"),
	})
	r.resolvectl = func(_ context.Context, args ...string) error {
		r.mu.Lock()
		defer r.mu.Unlock()
		r.told = append(r.told, strings.Join(args, " "))
		return r.fail
	}
	r.write(text)
	return r
}

// fails makes resolvectl fail, or not.
func (r *resolver) fails(err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.fail = err
}

func (r *resolver) write(text string) {
	if err := os.WriteFile(r.file, []byte(text), 0o644); err != nil {
		r.t.Fatal(err)
	}
}

func (r *resolver) text() string {
	data, err := os.ReadFile(r.file)
	if err != nil {
		r.t.Fatal(err)
	}
	return string(data)
}

// start runs it until the function that is returned is called.
func (r *resolver) start() (stop func()) {
	ctx, cancel := context.WithCancel(r.t.Context())
	done := make(chan error, 1)
	go func() { done <- r.run(ctx) }()
	synctest.Wait()
	return func() {
		cancel()
		if err := <-done; err != nil {
			r.t.Error(err)
		}
	}
}

func TestNodeDNSInAPlainFile(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const own = "search lan\nnameserver 192.0.2.1\n"
		r := newResolver(t, own)
		real := r.file
		r.file += ".link"
		if err := os.Symlink(real, r.file); err != nil {
			t.Fatal(err)
		}
		stop := r.start()
		ours := r.text()
		if !strings.HasSuffix(ours, own) || strings.Index(ours, "nameserver 10.254.254.1") > strings.Index(ours, "nameserver 192.0.2.1") {
			t.Errorf("the file: %s", ours)
		}
		// DHCP writes it anew; while it does, the file is left alone.
		r.write("# being written\n")
		time.Sleep(resolvCheck + time.Second)
		synctest.Wait()
		if r.text() != "# being written\n" {
			t.Errorf("an unfinished file: %s", r.text())
		}
		r.write("nameserver 192.0.2.2\n")
		time.Sleep(resolvCheck + time.Second)
		synctest.Wait()
		if !strings.Contains(r.text(), "nameserver 10.254.254.1") {
			t.Errorf("the file of later: %s", r.text())
		}
		stop()
		if r.text() != "nameserver 192.0.2.2\n" || len(r.told) > 0 {
			t.Errorf("at the end: %s, told %q", r.text(), r.told)
		}
		if info, err := os.Lstat(r.file); err != nil || info.Mode()&os.ModeSymlink == 0 {
			t.Error("the link is gone")
		}
		// What one that was killed has left goes with the next.
		r.write(ours)
		r.start()()
		if r.text() != own {
			t.Errorf("after a kill: %s", r.text())
		}
		r.write(ours)
		if err := r.keep(t.Context(), false); err != nil || r.text() != own {
			t.Errorf("after a kill, and without the option: %v, %s", err, r.text())
		}
	})
}

func TestNodeDNSWithSystemdResolved(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const own = "nameserver 127.0.0.53\noptions edns0 trust-ad\n"
		r := newResolver(t, own)
		stop := r.start()
		// Not the name of 10.240.0.0/12: there is only that of 10.0.0.0/8.
		const once = "dns wp0 10.254.254.1|domain wp0 ~cluster.local ~254.10.in-addr.arpa|dnssec wp0 no"
		if got := strings.Join(r.told, "|"); got != once {
			t.Errorf("told %s", got)
		}
		time.Sleep(resolvedLooks*resolvCheck - time.Second)
		synctest.Wait()
		if len(r.told) != 3 {
			t.Errorf("told too often: %q", r.told)
		}
		r.fails(errors.New("exit status 1"))
		time.Sleep(2 * time.Second)
		synctest.Wait()
		if len(r.told) != 6 || !strings.Contains(r.log.String(), "does not resolve the cluster's names") {
			t.Errorf("told %q\n%s", r.told, &r.log)
		}
		r.fails(nil)
		stop()
		if r.told[len(r.told)-1] != "revert wp0" || r.text() != own {
			t.Errorf("at the end: told %q, file %s", r.told, r.text())
		}
	})
}

// Where the file names a server of the machine's own, that one may ask whom the file names.
func TestNodeDNSLeavesLocalServersAlone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newResolver(t, "nameserver 127.0.0.1\n")
		stop := r.start()
		time.Sleep(5 * resolvCheck)
		stop()
		if r.text() != "nameserver 127.0.0.1\n" || len(r.told) > 0 {
			t.Errorf("file %s, told %q", r.text(), r.told)
		}
		if n := strings.Count(r.log.String(), "server=/cluster.local/10.254.254.1"); n != 1 {
			t.Errorf("said %d times:\n%s", n, &r.log)
		}
	})
}
