package network

import (
	"context"
	"errors"
	"log/slog"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// A subscription that ends is begun again, and what may have been missed is looked for.
func TestFollow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		var pokes, tries atomic.Int32
		feeds := make(chan chan<- int, 3)
		subscribe := func(c chan<- int, done <-chan struct{}) error {
			try := tries.Add(1)
			if try == 2 {
				return errors.New("no buffer space available")
			}
			feeds <- c
			if try == 4 { // the others end by themselves
				go func() {
					<-done
					for range 100 { // what comes late must not hang
						c <- 1
					}
					close(c)
				}()
			}
			return nil
		}
		ended := make(chan struct{})
		go func() {
			defer close(ended)
			follow(ctx, slog.New(slog.DiscardHandler), func() { pokes.Add(1) }, subscribe, func(v int) bool { return v > 0 })
		}()
		want := func(what string, p, n int32) {
			t.Helper()
			synctest.Wait()
			if pokes, tries := pokes.Load(), tries.Load(); pokes != p || tries != n {
				t.Errorf("%s: %d pokes, want %d; %d subscriptions, want %d", what, pokes, p, tries, n)
			}
		}
		want("begun", 1, 1)
		feed := <-feeds
		feed <- 0
		want("what does not matter", 1, 1)
		feed <- 1
		want("what does", 2, 1)
		close(feed)
		want("ended", 2, 1)
		time.Sleep(subscribeAgain)
		want("refused", 2, 2)
		time.Sleep(subscribeAgain)
		want("begun again", 3, 3)
		feed = <-feeds
		feed <- 1
		want("it is followed", 4, 3)
		close(feed)
		time.Sleep(subscribeAgain)
		want("and again", 5, 4)
		cancel()
		<-ended
	})
}

func TestCarrierChanged(t *testing.T) {
	carriers := map[int32]bool{}
	for _, c := range []struct {
		what, name string
		index      int32
		kind       uint16
		flags      uint32
		want       bool
	}{
		{"a link that was not looked at", "eth1", 2, unix.RTM_NEWLINK, unix.IFF_UP | unix.IFF_LOWER_UP, true},
		{"something else of it", "eth1", 2, unix.RTM_NEWLINK, unix.IFF_UP | unix.IFF_LOWER_UP | unix.IFF_PROMISC, false},
		{"its cable is out", "eth1", 2, unix.RTM_NEWLINK, unix.IFF_UP, true},
		{"another's is", "eth2", 3, unix.RTM_NEWLINK, unix.IFF_UP, true},
		{"still out", "eth1", 2, unix.RTM_NEWLINK, unix.IFF_UP, false},
		{"it is back", "eth1", 2, unix.RTM_NEWLINK, unix.IFF_UP | unix.IFF_LOWER_UP, true},
		{"a pod's", "wpv0123456789ab", 4, unix.RTM_NEWLINK, unix.IFF_UP | unix.IFF_LOWER_UP, false},
		{"the pods' bridge", BridgeName, 5, unix.RTM_NEWLINK, unix.IFF_UP | unix.IFF_LOWER_UP, false},
		{"gone", "eth1", 2, unix.RTM_DELLINK, 0, false},
		{"another of its number", "eth1", 2, unix.RTM_NEWLINK, unix.IFF_UP | unix.IFF_LOWER_UP, true},
	} {
		u := netlink.LinkUpdate{Header: unix.NlMsghdr{Type: c.kind}, Link: &netlink.Dummy{LinkAttrs: netlink.LinkAttrs{Name: c.name}}}
		u.IfInfomsg.Index, u.IfInfomsg.Flags = c.index, c.flags
		if got := carrierChanged(carriers, u); got != c.want {
			t.Errorf("%s: %v", c.what, got)
		}
	}
}
