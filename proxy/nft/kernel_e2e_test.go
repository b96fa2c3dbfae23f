//go:build e2e

package nft

import (
	"context"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
	"pgregory.net/rapid"

	"github.com/whalepod/whalepod/proxy/netnstest"
)

// These tests need root, and a kernel with nf_tables. The namespace has no link but its own lo.
const namespace = "wpp-nft"

// open opens a socket in the namespace.
func open(t testing.TB) *socket {
	t.Helper()
	var s *socket
	if err := netnstest.Inside(namespace, func() (err error) { s, err = dial(); return err }); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.close)
	return s
}

// both gives everything to the kernel and to the fake.
type both struct {
	*socket
	fake *fakeKernel
}

func (b both) commit(changes *batch) error {
	if b.fake.fail == nil {
		if err := b.socket.commit(changes); err != nil {
			return err
		}
	}
	return b.fake.commit(changes)
}

// The kernel takes whatever the rules may be, and holds what the tests without a kernel believe that it holds.
func TestE2EKernelTakesAllRules(t *testing.T) {
	netnstest.Make(t, namespace)
	s := open(t)
	shown := false
	rapid.Check(t, func(r *rapid.T) {
		k := both{s, &fakeKernel{}}
		old, err := over(testConfig(), s, s)
		if err != nil {
			r.Fatal(err)
		}
		if err := old.Remove(context.Background()); err != nil {
			r.Fatal(err)
		}
		stepByStep(r, k.fake, k, false)
		real, fake := newTables(r, s), newTables(r, k.fake)
		if d := cmp.Diff(fake.snapshot, real.snapshot, cmp.AllowUnexported(snapshot{}, id{}, content{})); d != "" {
			r.Fatal(d)
		}
		if !shown && len(real.snapshot.ways) > 6 { // nft shows it, too
			shown = true
			if out := netnstest.RunIn(t, namespace, "nft", "list", "table", "ip", Table); !strings.Contains(out, `vmap @services comment "services, rules of version`) {
				r.Fatal(out)
			}
		}
	})
	if !shown {
		t.Error("never anything to show")
	}
}

// A kernel that does not know something says so, and keeps what it has.
func TestE2ERefusal(t *testing.T) {
	netnstest.Make(t, namespace)
	s := open(t)
	tables := newTables(t, s)
	if err := tables.Try(); err != nil {
		t.Fatal(err)
	}
	tables.SetPorts("default/web", nil, web())
	apply(t, tables)
	b := newBatch()
	b.elements(unix.NFT_MSG_DELSETELEM, []change{{id: id{set: setEndpoints}}})
	if err := s.commit(b); err == nil || !strings.Contains(err.Error(), "no such file or directory") || !strings.Contains(err.Error(), "(delete element whalepod endpoints)") {
		t.Error(err)
	}
	read(t, tables)
	if n := apply(t, tables); n != 0 || len(tables.have) != 1 {
		t.Error(n, tables.have)
	}
	if out := netnstest.RunIn(t, namespace, "nft", "list", "tables"); out != "table ip whalepod\n" {
		t.Errorf("%q", out)
	}
}
