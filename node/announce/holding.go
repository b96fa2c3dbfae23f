package announce

import (
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
)

type phase int

const (
	probing    phase = iota // is it anybody else's?
	announcing              // it is ours
	conflicted              // it is a stranger's
)

// holding is an address that this node is to announce.
type holding struct {
	address *Address
	rivals  string // who could announce it, too
	phase   phase
	steps   int       // probes sent, or announcements
	due     time.Time // when there is something to do; zero: now
	since   time.Time // when it was first announced
	pushed  time.Time // when somebody was last contradicted
	thief   MAC       // of the last conflict that was told
	via     []*wire
	// stranded: it had no link before the last look.
	stranded bool
}

// step does what is due.
func (a *Announcer) step(h *holding, now time.Time) {
	if now.Before(h.due) {
		return
	}
	if len(h.via) == 0 { // connect knows when to look again
		h.phase, h.steps, h.due = probing, 0, now.Add(idle)
		return
	}
	switch h.phase {
	case conflicted:
		h.phase, h.steps = probing, 0
		fallthrough
	case probing:
		if h.steps < probes {
			h.steps++
			h.due = now.Add(probeEvery)
			h.each(func(w *wire) { w.send(probe(w.link.MAC, h.address.IP), broadcast) })
			return
		}
		h.phase, h.steps, h.since = announcing, 0, now
		a.log.Info("announcing address", "address", h.address.IP, "link", h.via[0].link.Name)
		a.tell(h, corev1.EventTypeNormal, ReasonAssigned, fmt.Sprintf("announcing %s from node %q", h.address.IP, a.cfg.Node))
		a.publish() // whoever hears the announcement may ask at once
		fallthrough
	case announcing:
		h.announce()
		h.due = now.Add(repeatEvery)
		if h.steps < len(announceAfter) {
			h.due = now.Add(announceAfter[h.steps])
		}
		h.steps++
	}
}

func (h *holding) each(f func(*wire)) {
	for _, w := range h.via {
		f(w)
	}
}

func (h *holding) announce() {
	h.each(func(w *wire) {
		for _, p := range announcement(w.link.MAC, h.address.IP) {
			w.send(p, broadcast)
		}
	})
}

// claimed decides what to do about somebody else's claim.
func (a *Announcer) claimed(c claim, now time.Time) {
	ip := c.SenderIP
	if ip.IsUnspecified() {
		ip = c.TargetIP
	}
	h := a.holdings[ip]
	if h == nil {
		return
	}
	if _, known := a.macs[c.SenderMAC]; known {
		// A node that does not know yet that it is not its turn. While we probe, that is the one before us.
		if h.phase == announcing && c.announces() && now.Sub(h.pushed) >= yieldEvery {
			h.pushed = now
			h.announce()
		}
		return
	}
	switch {
	case h.phase == conflicted:
	case h.phase == probing, now.Sub(h.since) < conflictWithin:
		h.phase, h.due = conflicted, now.Add(retryConflict)
		a.conflict(h, c, fmt.Sprintf("%s is in use by %s on link %s: it is not announced by node %q", ip, c.SenderMAC, c.link, a.cfg.Node))
	case !c.SenderIP.IsUnspecified() && now.Sub(h.pushed) >= defendEvery:
		h.pushed = now
		h.announce()
		a.conflict(h, c, fmt.Sprintf("%s is claimed by %s on link %s: node %q goes on announcing it", ip, c.SenderMAC, c.link, a.cfg.Node))
	}
}

// conflict tells of a stranger once.
func (a *Announcer) conflict(h *holding, c claim, message string) {
	if h.thief == c.SenderMAC {
		return
	}
	h.thief = c.SenderMAC
	a.log.Warn("another machine has the address of a load balancer", "address", h.address.IP, "mac", c.SenderMAC, "link", c.link, "given up", h.phase == conflicted)
	a.tell(h, corev1.EventTypeWarning, ReasonConflict, message)
}

func (a *Announcer) tell(h *holding, eventType, reason, message string) {
	for _, s := range h.address.Services {
		a.cfg.Event(s, eventType, reason, message)
	}
}
