package announce

import (
	"log/slog"
	"net/netip"
	"slices"
	"sync/atomic"
	"time"
)

// wire is a link that is listened on.
type wire struct {
	link   Link
	conn   Conn
	log    *slog.Logger
	only   []netip.Addr // what the filter lets through
	broken atomic.Bool
}

func (w *wire) close() { _ = w.conn.Close() }

// send is not worth failing for: what is lost is sent again.
func (w *wire) send(p Packet, to MAC) {
	if err := w.conn.Send(p, to); err != nil {
		w.log.Debug("ARP packet not sent", "link", w.link.Name, "err", err)
	}
}

// connect opens the links that held addresses need, closes the others, and has their filters let through what matters.
func (a *Announcer) connect(now time.Time) {
	a.mu.Lock()
	look := a.look
	a.look = false
	a.mu.Unlock()
	if look || !a.relookAt.IsZero() && !now.Before(a.relookAt) || a.links == nil && len(a.holdings) > 0 || a.anyBroken() {
		a.relookAt = time.Time{}
		a.lookAtLinks(now)
	}
	need := map[int][]netip.Addr{}
	by := map[int]Link{}
	for ip, h := range a.holdings {
		for _, l := range via(ip, a.cfg.NodeIP, a.links) {
			need[l.Index], by[l.Index] = append(need[l.Index], ip), l
		}
		if len(via(ip, a.cfg.NodeIP, a.links)) == 0 {
			a.once("no link "+ip.String(), "no link to announce an address on", "address", ip)
		}
		h.stranded, h.via = len(h.via) == 0, nil
	}
	for index, w := range a.wires {
		l, needed := by[index]
		if broken := w.broken.Load(); broken || !needed || l.MAC != w.link.MAC {
			w.close()
			delete(a.wires, index)
			if broken {
				a.notBefore[index] = now.Add(relook)
			}
		}
	}
	for index, addrs := range need {
		slices.SortFunc(addrs, netip.Addr.Compare)
		if w := a.open(by[index], addrs, now); w != nil {
			for _, ip := range addrs {
				a.holdings[ip].via = append(a.holdings[ip].via, w)
			}
		}
	}
	for _, h := range a.holdings {
		if h.stranded && len(h.via) > 0 && h.phase == probing {
			h.steps, h.due = 0, time.Time{}
		}
	}
}

func (a *Announcer) anyBroken() bool {
	for _, w := range a.wires {
		if w.broken.Load() {
			return true
		}
	}
	return false
}

func (a *Announcer) lookAtLinks(now time.Time) {
	links, err := a.cfg.Links()
	if err != nil {
		a.once("links", "the links of this node are not known", "err", err)
		a.relookAt = now.Add(relook)
		return
	}
	delete(a.refused, "links")
	a.links = links
}

// open makes sure that a link is listened on for these addresses. Those that wait for a link are due when it is there.
func (a *Announcer) open(l Link, addrs []netip.Addr, now time.Time) *wire {
	w := a.wires[l.Index]
	fresh := w == nil
	if fresh {
		if at := a.notBefore[l.Index]; now.Before(at) {
			a.relookAt = at
			return nil
		}
		conn, err := a.cfg.Listen(l)
		if err != nil {
			a.once("open "+l.Name, "addresses cannot be announced on a link", "link", l.Name, "err", err)
			a.relookAt = now.Add(relook)
			return nil
		}
		delete(a.refused, "open "+l.Name)
		w = &wire{link: l, conn: conn, log: a.log}
		a.wires[l.Index] = w
	}
	if !slices.Equal(w.only, addrs) {
		if err := w.conn.Only(addrs); err != nil {
			a.once("filter "+l.Name, "addresses cannot be announced on a link", "link", l.Name, "err", err)
			a.relookAt = now.Add(relook)
			w.close()
			delete(a.wires, l.Index)
			return nil
		}
		w.only = addrs
	}
	if fresh {
		own := w // its reader is the only one that uses it beside this goroutine
		a.readers.Go(func() { a.read(own) })
		for _, ip := range addrs { // what is announced already must be heard on this link, too
			if h := a.holdings[ip]; h.phase == announcing {
				h.steps, h.due = 0, time.Time{}
			}
		}
	}
	return w
}

// read answers for this node's addresses until the link fails or is closed.
func (a *Announcer) read(w *wire) {
	for {
		p, err := w.conn.Receive()
		if err != nil {
			w.broken.Store(true)
			a.change(func() {})
			return
		}
		held := *a.held.Load()
		if p.SenderMAC == w.link.MAC {
			continue // our own, come back by a loop
		}
		wanted, target := p.Op == opRequest && !p.announces(), p.TargetIP
		_, known := held[p.SenderIP]
		if !known && wanted && p.SenderIP.IsUnspecified() && !held[target] {
			_, known = held[target] // somebody else is about to take it
		}
		if known {
			select {
			case a.claims <- claim{w.link.Name, p}:
			default:
			}
			continue
		}
		if wanted && held[target] {
			w.send(answer(w.link.MAC, p), p.SenderMAC)
		}
	}
}
