package nft

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"

	"github.com/whalepod/whalepod/proxy"
)

// Config is what the rules depend on besides Services; see proxy.Config.
type Config struct {
	PodCIDR, ClusterPodCIDR, ServiceCIDR netip.Prefix
	LocalIPs                             []netip.Addr
}

// Tables is the back end of one network namespace: that in which it was made. It implements proxy.Backend and proxy.Looker.
type Tables struct {
	cfg        Config
	version    string
	sock, look kernel

	claims    map[at][]claim
	hostPorts map[string][]proxy.HostPort
	hairpins  map[netip.Addr]int

	// What the kernel holds, but for what was changed since.
	have    map[at]*entry
	chains  map[string]struct{} // those of ways and memories
	sets    map[string]struct{} // those of memories
	touched map[at]struct{}
	own     map[netip.Addr]struct{} // of hairpins, those touched
	hairs   map[netip.Addr]struct{} // of hairpins, those that the kernel has
	// A packet that has been sent to a pod by the old rules may meet the new ones on its way out: hairpins go one change later
	// than what leads to them.
	leaving  map[netip.Addr]struct{}
	snapshot *snapshot // what Read found, until it has been applied
	gen      uint32
	looks    int // that found another generation
	again    int // how often Read began anew
}

var (
	_ proxy.Backend = (*Tables)(nil)
	_ proxy.Looker  = (*Tables)(nil)
)

// New opens the sockets; it changes nothing.
func New(cfg Config) (*Tables, error) {
	sock, err := dial()
	if err != nil {
		return nil, err
	}
	look, err := dial()
	if err != nil {
		sock.close()
		return nil, err
	}
	t, err := over(cfg, sock, look)
	if err != nil {
		sock.close()
		look.close()
	}
	return t, err
}

func over(cfg Config, sock, look kernel) (*Tables, error) {
	cfg.PodCIDR, cfg.ClusterPodCIDR, cfg.ServiceCIDR = cfg.PodCIDR.Masked(), cfg.ClusterPodCIDR.Masked(), cfg.ServiceCIDR.Masked()
	if !cfg.PodCIDR.Addr().Is4() || !cfg.ClusterPodCIDR.Addr().Is4() || !cfg.ServiceCIDR.Addr().Is4() {
		return nil, errors.New("nft: pod and service ranges must be IPv4")
	}
	return &Tables{
		cfg: cfg, version: cfg.version(), sock: sock, look: look,
		claims: map[at][]claim{}, hostPorts: map[string][]proxy.HostPort{}, hairpins: map[netip.Addr]int{},
		have: map[at]*entry{}, chains: map[string]struct{}{}, sets: map[string]struct{}{}, touched: map[at]struct{}{}, own: map[netip.Addr]struct{}{},
		hairs: map[netip.Addr]struct{}{}, leaving: map[netip.Addr]struct{}{},
	}, nil
}

// Close closes the sockets and leaves the rules as they are.
func (t *Tables) Close() {
	t.sock.close()
	t.look.close()
}

// Try asks the kernel for a table with all that the rules need, which does nothing, and takes it away in the same step.
func (t *Tables) Try() error {
	const name, dormant = Table + "-try", 1
	b := newBatch()
	addTable(b, name, dormant)
	t.cfg.define(b, name, t.version, t.cfg.base())
	t.cfg.sample().write(b, name)
	deleteTable(b, name)
	return t.sock.commit(b)
}

// SetPorts implements proxy.Backend.
func (t *Tables) SetPorts(service string, old, now []proxy.Port) {
	claimsOf(old, func(place at, c claim) { t.withdraw(place, c.who) })
	claimsOf(now, t.claim)
	t.countHairpins(old, -1)
	t.countHairpins(now, 1)
}

// SetHostPorts implements proxy.Backend.
func (t *Tables) SetHostPorts(pod string, ports []proxy.HostPort) {
	for _, p := range t.hostPorts[pod] {
		place, c := claimOf(pod, p)
		t.withdraw(place, c.who)
		t.countHairpin(p.Pod.Addr(), -1)
	}
	if len(ports) == 0 {
		delete(t.hostPorts, pod)
	} else {
		t.hostPorts[pod] = ports
	}
	for _, p := range ports {
		place, c := claimOf(pod, p)
		t.claim(place, c)
		t.countHairpin(p.Pod.Addr(), 1)
	}
}

func protocolOf(p proxy.HostPort) string {
	if p.Protocol == "" {
		return "tcp"
	}
	return strings.ToLower(string(p.Protocol))
}

func (t *Tables) claim(place at, c claim) {
	t.claims[place] = append(t.claims[place], c)
	if len(t.claims[place]) > 1 {
		slices.SortStableFunc(t.claims[place], claim.before)
	}
	t.touched[place] = struct{}{}
}

func (t *Tables) withdraw(place at, who string) {
	left := slices.DeleteFunc(t.claims[place], func(c claim) bool { return c.who == who })
	if len(left) == 0 {
		delete(t.claims, place)
	} else {
		t.claims[place] = left
	}
	t.touched[place] = struct{}{}
}

func (t *Tables) countHairpins(ports []proxy.Port, by int) {
	for i := range ports {
		for _, e := range ports[i].Cluster {
			t.countHairpin(e.Addr(), by)
		}
		for _, e := range ports[i].Local {
			t.countHairpin(e.Addr(), by)
		}
	}
}

// countHairpin notes which addresses of this node's pods are behind something that the pods may call.
func (t *Tables) countHairpin(ip netip.Addr, by int) {
	if !t.cfg.PodCIDR.Contains(ip) {
		return
	}
	if t.hairpins[ip] += by; t.hairpins[ip] == 0 {
		delete(t.hairpins, ip)
	}
	t.own[ip] = struct{}{}
}

func hairpin(ip netip.Addr) (id, content) {
	b := ip.As4()
	i := id{set: setHairpins}
	copy(i.key[:], b[:])
	copy(i.key[4:], b[:])
	return i, content{comment: ip.String()}
}

// wanted is the entry of who gets the place, arranged as the one that is there.
func (t *Tables) wanted(place at, old *entry) *entry {
	list := t.claims[place]
	if len(list) == 0 {
		return nil
	}
	e := list[0].entry
	if old == nil {
		return e
	}
	out := *e
	out.cluster, out.local = arranged(old.cluster, e.cluster), arranged(old.local, e.local)
	return &out
}

// Read implements proxy.Backend.
func (t *Tables) Read(ctx context.Context) (map[string][]proxy.HostPort, error) {
	t.snapshot = nil
	var s *snapshot
	for t.again = 0; ; t.again++ {
		var err error
		if s, err = t.read(); err == nil {
			break
		}
		if !errors.Is(err, errInterrupted) || ctx.Err() != nil {
			return nil, fmt.Errorf("read nf_tables' table %s: %w", Table, err)
		}
	}
	t.snapshot = s
	return s.hostPorts(), nil
}

// Apply implements proxy.Backend: one batch with what differs. New chains come in one before it: to a packet that is on its way
// through the rules of before they would be empty.
func (t *Tables) Apply(context.Context) (int, error) {
	var c *commit
	if t.snapshot != nil {
		c = t.whole()
	} else {
		c = t.changes()
	}
	written := 0
	for _, b := range c.batches(t) {
		if err := t.sock.commit(b); err != nil {
			return 0, err
		}
		written += len(b.b)
	}
	maps.Copy(t.have, c.entries)
	for place, e := range c.entries {
		if e == nil {
			delete(t.have, place)
		}
	}
	t.chains, t.sets, t.hairs, t.leaving = c.chains, c.sets, c.hairs, c.leaving
	t.snapshot = nil
	clear(t.touched)
	clear(t.own)
	if written == 0 && t.gen != 0 && !c.all {
		return 0, nil
	}
	gen, err := t.generation()
	if err != nil {
		return 0, err
	}
	t.gen = gen
	if c.tidies() {
		return 0, nil
	}
	return written, nil
}

// thorough is how many looks that find other tables changed pass before all elements are compared, too: Docker and the rules of
// policies change theirs all the time, and reading 50,000 elements takes a third of a second.
const thorough = 10

// Intact implements proxy.Backend: the kernel counts the changes of all tables. When there were some, chains, rules and sets are
// looked at; a flush takes those away.
func (t *Tables) Intact(context.Context) (bool, error) {
	gen, err := t.generation()
	if err != nil || gen == t.gen {
		return err == nil, err
	}
	t.again = patience // one look will do
	if t.looks++; t.looks >= thorough {
		t.looks = 0
		return false, nil
	}
	s, present, err := t.readShape()
	if err != nil || !t.complete(s, present) {
		return false, err
	}
	w := newWishes(&t.cfg)
	for _, e := range t.have {
		w.add(e)
	}
	for i := range w.chains {
		if !s.right(&w.chains[i]) {
			return false, nil
		}
	}
	t.gen = gen
	return true, nil
}

// Remove implements proxy.Backend.
func (t *Tables) Remove(context.Context) error {
	t.again = patience
	there, err := t.there()
	if err != nil || !there {
		return err
	}
	b := newBatch()
	deleteTable(b, Table)
	return t.sock.commit(b)
}

// hostPorts are those that the table serves.
func (s *snapshot) hostPorts() map[string][]proxy.HostPort {
	out := map[string][]proxy.HostPort{}
	for i, c := range s.elements {
		pod, ok := strings.CutSuffix(c.comment, proxy.HostPortNote)
		if i.set != setServices || !ok {
			continue
		}
		place := placeOf(i.key)
		p := proxy.HostPort{Protocol: corev1.ProtocolTCP, Port: place.port}
		switch place.proto {
		case protocols["udp"]:
			p.Protocol = corev1.ProtocolUDP
		case protocols["sctp"]:
			p.Protocol = corev1.ProtocolSCTP
		}
		if place.addr != [4]byte{} {
			p.HostIP = netip.AddrFrom4(place.addr)
		}
		if to, ok := s.elements[id{set: setEndpoints, key: i.key}]; ok {
			p.Pod = targetOf(to.to[:]).addrPort()
			out[pod] = append(out[pod], p)
		}
	}
	return out
}
