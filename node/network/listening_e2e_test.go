//go:build e2e

package network

import (
	"context"
	"fmt"
	"net"
	"slices"
	"testing"
)

func TestE2EListenersOfANamespace(t *testing.T) {
	ns := makeNS(t, "wpn-listen")
	var want []string
	for _, l := range []struct{ network, addr, protocol, seen string }{
		{"tcp4", "127.0.0.1:8080", "TCP", "127.0.0.1:8080"}, {"tcp", "[::]:8081", "TCP", "[::]:8081"}, {"tcp4", "0.0.0.0:8082", "TCP", "0.0.0.0:8082"}, {"udp4", "127.0.0.1:53", "UDP", "127.0.0.1:53"},
	} {
		err := Inside(nsPath(ns), func() error {
			var lc net.ListenConfig
			if l.protocol == "UDP" {
				c, err := lc.ListenPacket(context.Background(), l.network, l.addr)
				if err == nil {
					t.Cleanup(func() { c.Close() })
				}
				return err
			}
			c, err := lc.Listen(context.Background(), l.network, l.addr)
			if err == nil {
				t.Cleanup(func() { c.Close() })
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		want = append(want, l.protocol+" "+l.seen)
	}
	// One that is connected waits for nobody.
	if err := Inside(nsPath(ns), func() error {
		c, err := new(net.Dialer).DialContext(t.Context(), "udp4", "127.0.0.1:53")
		if err == nil {
			t.Cleanup(func() { c.Close() })
		}
		return err
	}); err != nil {
		t.Fatal(err)
	}
	list, err := Listeners(nsPath(ns))
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, l := range list {
		got = append(got, fmt.Sprint(l.Protocol, " ", l.Address))
		if l.Waiting != 0 {
			t.Errorf("%d connections wait at %s, and nobody has made one", l.Waiting, l.Address)
		}
	}
	slices.Sort(got)
	slices.Sort(want)
	if !slices.Equal(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
	// Nobody accepts.
	if err := Inside(nsPath(ns), func() error {
		c, err := new(net.Dialer).DialContext(t.Context(), "tcp4", "127.0.0.1:8080")
		if err == nil {
			err = c.Close()
		}
		return err
	}); err != nil {
		t.Fatal(err)
	}
	if list, err = Listeners(nsPath(ns)); err != nil || !slices.ContainsFunc(list, func(l Listener) bool { return l.Address.Port() == 8080 && l.Waiting == 1 }) {
		t.Errorf("%+v, %v", list, err)
	}
	if _, err := Listeners("/proc/0/ns/net"); err == nil {
		t.Error("a namespace that is not there has sockets")
	}
}
