package network

import (
	"context"
	"log/slog"
	"strings"
	"sync"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// subscribeAgain is the pause after a subscription has ended, which it does for good when the kernel could not deliver
// all (a routing daemon that fills a table).
const subscribeAgain = time.Second

// listen pokes changed after the kernel reports routes, addresses or links that are not our own doing, until ctx ends.
func (n *Network) listen(ctx context.Context, changed chan<- struct{}) {
	poke := func() {
		select {
		case changed <- struct{}{}:
		default:
		}
	}
	fd, failed := n.ns.fd, func(error) { poke() }
	carriers := map[int32]bool{}
	var all sync.WaitGroup
	all.Go(func() {
		follow(ctx, n.log.With("of", "routes"), poke, func(c chan<- netlink.RouteUpdate, done <-chan struct{}) error {
			return netlink.RouteSubscribeWithOptions(c, done, netlink.RouteSubscribeOptions{Namespace: &fd, ErrorCallback: failed})
		}, func(u netlink.RouteUpdate) bool { return u.Protocol != routeProtocol && u.Table == unix.RT_TABLE_MAIN })
	})
	all.Go(func() {
		follow(ctx, n.log.With("of", "addresses"), poke, func(c chan<- netlink.AddrUpdate, done <-chan struct{}) error {
			return netlink.AddrSubscribeWithOptions(c, done, netlink.AddrSubscribeOptions{Namespace: &fd, ErrorCallback: failed})
		}, func(u netlink.AddrUpdate) bool { return u.LinkAddress.IP.To4() != nil })
	})
	all.Go(func() {
		follow(ctx, n.log.With("of", "links"), poke, func(c chan<- netlink.LinkUpdate, done <-chan struct{}) error {
			return netlink.LinkSubscribeWithOptions(c, done, netlink.LinkSubscribeOptions{Namespace: &fd, ErrorCallback: failed})
		}, func(u netlink.LinkUpdate) bool { return carrierChanged(carriers, u) })
	})
	all.Wait()
}

// carrierChanged: the kernel tells of a cable that is out by nothing but the link. Pods' links come and go all the time.
func carrierChanged(carriers map[int32]bool, u netlink.LinkUpdate) bool {
	if u.Header.Type == unix.RTM_DELLINK {
		delete(carriers, u.Index)
		return false // its addresses and routes are gone, too
	}
	name := u.Attrs().Name
	if name == BridgeName || name == VXLANName || strings.HasPrefix(name, vethPrefix) {
		return false
	}
	now := u.Flags&unix.IFF_LOWER_UP != 0
	before, known := carriers[u.Index]
	carriers[u.Index] = now
	return !known || now != before
}

// follow pokes for what a subscription reports and matters, and subscribes again when it ends.
func follow[T any](ctx context.Context, log *slog.Logger, poke func(), subscribe func(c chan<- T, done <-chan struct{}) error, matters func(T) bool) {
	for ctx.Err() == nil {
		c, done := make(chan T, 16), make(chan struct{})
		if err := subscribe(c, done); err != nil {
			log.Warn("changes are noticed late", "err", err)
		} else {
			poke() // for what was missed
			for open := true; open; {
				var u T
				select {
				case <-ctx.Done():
					open = false
				case u, open = <-c:
					if open && matters(u) {
						poke()
					}
				}
			}
			close(done)
			go drain(c)
		}
		select {
		case <-ctx.Done():
		case <-time.After(subscribeAgain):
		}
	}
}

// drain takes what a subscription that was ended is still about to deliver.
func drain[T any](c <-chan T) {
	for open := true; open; {
		_, open = <-c
	}
}
