//go:build e2e

package network

import (
	"context"
	"slices"
	"testing"
	"time"
)

// A link whose cable is out is none by which addresses can be announced, and who announces them hears of it at once: the kernel
// changes neither addresses nor routes.
func TestE2ECableOut(t *testing.T) {
	makeNS(t, "wpn-a")
	makeNS(t, "wpn-r")
	for _, link := range []string{"eth0", "eth1"} {
		cable(t, "wpn-a", link, "wpn-r", link)
	}
	run(t, "ip", "-n", "wpn-a", "addr", "add", "198.51.100.11/24", "dev", "eth0")
	run(t, "ip", "-n", "wpn-a", "addr", "add", "203.0.113.11/24", "dev", "eth1")
	changed := make(chan struct{}, 1)
	a := makeNode(t, "wpn-a", "198.51.100.11", "10.244.1.0/24", func(c *Config) {
		c.Changed = func() {
			select {
			case changed <- struct{}{}:
			default:
			}
		}
	})
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- a.Run(ctx) }()
	defer func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	}()
	for _, c := range []struct {
		set  string
		want []string
	}{{"up", []string{"eth0", "eth1"}}, {"down", []string{"eth0"}}, {"up", []string{"eth0", "eth1"}}} {
		run(t, "ip", "-n", "wpn-r", "link", "set", "eth1", c.set)
		for late := time.After(time.Minute); ; {
			links, err := a.Links()
			if err != nil {
				t.Fatal(err)
			}
			var names []string
			for _, l := range links {
				names = append(names, l.Name)
			}
			if slices.Equal(names, c.want) {
				break
			}
			select {
			case <-changed:
			case <-late:
				t.Fatalf("the other end is %s: links %v, want %v", c.set, names, c.want)
			}
		}
	}
}
