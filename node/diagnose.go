package node

import (
	"context"
	"crypto/x509"
	"encoding/pem"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/whalepod/whalepod/node/diagnose"
	"github.com/whalepod/whalepod/node/diagnose/doctor"
	"github.com/whalepod/whalepod/node/network"
	"github.com/whalepod/whalepod/node/pods"
	"github.com/whalepod/whalepod/node/session"
	"github.com/whalepod/whalepod/node/streams"
	"github.com/whalepod/whalepod/proxy"
)

// examined is the agent as `wpctl trace` and `wpctl doctor` see it. It answers from the first moment on: people ask just
// when something does not get up.
type examined struct{ *Agent }

var _ diagnose.Node = examined{}

// onlyDiagnose serves questions while there are no pods to stream from yet.
func (a *Agent) onlyDiagnose() func(context.Context, net.Conn) {
	return streams.New(streams.Config{Engine: a.cfg.Engine, Lookup: noPods{}, Diagnose: diagnose.NewHandler(examined{a}), Log: a.cfg.Logger}).ServeConn
}

type noPods struct{}

func (noPods) Lookup(context.Context, string, string, string, string, streams.Want) (string, bool, int, error) {
	return "", false, 0, streams.NotRunning("%s", diagnose.ErrNotYet)
}

// setTrouble notes why the data plane is not there; nil when it is.
func (a *Agent) setTrouble(err error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.trouble = ""; err != nil {
		a.trouble = err.Error()
	}
}

func (e examined) Name() string { return e.cfg.Identity.Node }

// parts of the agent that are there by now.
func (e examined) parts() (c *cluster, plane *dataPlane, manager *pods.Manager, trouble string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.cluster, e.plane, e.pods, e.trouble
}

// Scope implements diagnose.Node: the cluster's ranges, its nodes, and what the Service's objects name.
func (e examined) Scope(service string) diagnose.Scope {
	c, _, _, _ := e.parts()
	s := diagnose.Scope{Nodes: []netip.Addr{e.cfg.NodeIP}}
	if c != nil {
		s.Pods, s.Services = c.pods, c.service
	}
	for _, p := range e.peers() {
		s.Nodes = append(s.Nodes, p.IP)
	}
	return e.named(s, service)
}

// named adds the addresses that a Service's objects name.
func (e examined) named(s diagnose.Scope, service string) diagnose.Scope {
	namespace, name, _ := strings.Cut(service, "/")
	svc, ok := e.desired.Service(namespace, name)
	if !ok {
		return s
	}
	outside := append([]string{}, svc.Spec.ExternalIPs...)
	for _, in := range svc.Status.LoadBalancer.Ingress {
		outside = append(outside, in.IP)
	}
	add := func(text string, port int32) {
		if ip, err := netip.ParseAddr(text); err == nil && port > 0 && port < 1<<16 {
			s.Extra = append(s.Extra, netip.AddrPortFrom(ip, uint16(port)))
		}
	}
	for _, text := range outside {
		for i := range svc.Spec.Ports {
			add(text, svc.Spec.Ports[i].Port)
		}
	}
	for _, slice := range e.desired.EndpointSlices() {
		if slice.Namespace != namespace || slice.Labels["kubernetes.io/service-name"] != name {
			continue
		}
		for i := range slice.Endpoints {
			for _, text := range slice.Endpoints[i].Addresses {
				for _, p := range slice.Ports {
					if p.Port != nil {
						add(text, *p.Port)
					}
				}
			}
		}
	}
	return s
}

// netns is the path of a pod's network namespace; empty for the node's own.
func (e examined) netns(p *diagnose.Pod) (string, error) {
	if p == nil {
		return "", nil
	}
	_, _, manager, _ := e.parts()
	if manager == nil {
		return "", diagnose.ErrNotYet
	}
	f, err := manager.Sandbox(p.Namespace, p.Name, p.UID)
	switch {
	case err != nil:
		return "", diagnose.ErrNoPod(*p)
	case f.HostNetwork:
		return "", nil
	}
	return filepath.Join("/proc", strconv.Itoa(f.SandboxPID), "ns", "net"), nil
}

// Dial implements diagnose.Node. A literal address is dialed on the calling thread, so the socket is the namespace's.
func (e examined) Dial(ctx context.Context, from *diagnose.Pod, proto string, to netip.AddrPort) (conn net.Conn, err error) {
	path, err := e.netns(from)
	if err != nil {
		return nil, err
	}
	dial := func() error {
		var d net.Dialer
		conn, err = d.DialContext(ctx, proto, to.String())
		return err
	}
	if path == "" {
		return conn, dial()
	}
	if err := network.Inside(path, dial); err != nil {
		return nil, err
	}
	return conn, nil
}

// Ping implements diagnose.Node. All of it happens on one thread, and so in the pod's network.
func (e examined) Ping(ctx context.Context, from *diagnose.Pod, to netip.Addr) (diagnose.Pinged, error) {
	out := diagnose.Pinged{Address: to}
	path, err := e.netns(from)
	if err != nil {
		return out, err
	}
	ping := func() error {
		out.Small, out.Full, out.Size = doctor.Sizes(ctx, doctor.Local(), to)
		return nil
	}
	if path == "" {
		return out, ping()
	}
	return out, network.Inside(path, ping)
}

// Resolver implements diagnose.Node.
func (e examined) Resolver(from *diagnose.Pod) (diagnose.Resolver, error) {
	if from == nil {
		c, _, _, _ := e.parts()
		if c == nil {
			return diagnose.Resolver{}, diagnose.ErrNotYet
		}
		return diagnose.Resolver{Servers: []netip.Addr{c.dns}, Search: []string{"svc." + c.domain}, NDots: 5}, nil
	}
	pod, ok := e.desired.Pod(from.Namespace, from.Name)
	if !ok {
		return diagnose.Resolver{}, diagnose.ErrNoPod(*from)
	}
	text, err := os.ReadFile(filepath.Join(pods.VolumesDir(e.cfg.DataDir), string(pod.UID), "resolv.conf"))
	return diagnose.ParseResolver(text), err
}

// Via implements diagnose.Node.
func (e examined) Via(to netip.Addr) string {
	_, plane, _, _ := e.parts()
	if plane == nil {
		return ""
	}
	return plane.network.Via(to)
}

// Rules implements diagnose.Node.
func (e examined) Rules(ctx context.Context, service string) (*diagnose.Rules, error) {
	_, plane, _, trouble := e.parts()
	if plane == nil {
		if trouble != "" {
			return nil, &setUpError{trouble}
		}
		return nil, diagnose.ErrNotYet
	}
	namespace, name, _ := strings.Cut(service, "/")
	v, err := plane.proxy.View(ctx, namespace, name)
	if err != nil {
		return nil, err
	}
	out := &diagnose.Rules{Known: v.Known, Applied: v.Applied}
	for _, w := range v.Ways {
		out.Ways = append(out.Ways, diagnose.Way{
			Port: w.Port, Protocol: strings.ToUpper(w.Protocol), Address: w.Address, Want: verdict(w.Want), Have: verdict(w.Have),
		})
	}
	return out, nil
}

// setUpError is why a data plane is not there.
type setUpError struct{ why string }

func (e *setUpError) Error() string { return "the node's network could not be set up: " + e.why }

func verdict(v proxy.Verdict) diagnose.Verdict {
	return diagnose.Verdict{Action: v.Action, Endpoints: v.Endpoints, Missing: v.Missing}
}

// Sockets implements diagnose.Node.
func (e examined) Sockets(pod diagnose.Pod) ([]diagnose.Socket, error) {
	path, err := e.netns(&pod)
	if err != nil {
		return nil, err
	}
	list, err := network.Listeners(path)
	out := make([]diagnose.Socket, len(list))
	for i, l := range list {
		out[i] = diagnose.Socket{Protocol: l.Protocol, Address: l.Address, Waiting: l.Waiting}
	}
	return out, err
}

// Drops implements diagnose.Node.
func (e examined) Drops(ctx context.Context, addrs []netip.Addr) ([]string, error) {
	tables, err := doctor.ReadTables(ctx, doctor.Local())
	var out []string
	for _, t := range tables {
		out = append(out, t.Mentions(addrs)...)
	}
	return out, err
}

// Health implements diagnose.Node.
func (e examined) Health(ctx context.Context) []doctor.Finding {
	return doctor.Examine(ctx, doctor.Local(), e.place())
}

func (e examined) place() *doctor.Place {
	c, plane, _, trouble := e.parts()
	p := &doctor.Place{
		Agent: true, Running: true, DataDir: e.cfg.DataDir, DockerHost: e.cfg.DockerHost, ResolvConf: e.cfg.ResolvConf,
		NodeIP: e.cfg.NodeIP, GossipPort: e.cfg.GossipPort, Trouble: trouble, Masters: e.cfg.Identity.Masters,
		Certificates: e.certificates(), Floors: map[string]doctor.Floor{},
	}
	for _, t := range e.guard.cfg.Thresholds {
		f := doctor.Floor{Fraction: t.Fraction}
		if t.Quantity != nil {
			f.Bytes = uint64(t.Quantity.Value())
		}
		p.Floors[string(t.Signal)] = f
	}
	if c != nil {
		p.Pods, p.Services, p.DNS = c.pods, c.service, c.dns
	}
	for _, m := range p.Masters {
		if at, err := netip.ParseAddrPort(m); err == nil && at.Addr() == p.NodeIP {
			p.Master = true // it runs on this machine, too
		}
	}
	alive := map[string]bool{}
	if plane != nil {
		p.MTU = plane.network.MTU()
		for _, m := range plane.members.Members() {
			alive[m.Name] = true
		}
	}
	for _, n := range e.peers() {
		p.Peers = append(p.Peers, doctor.Peer{Name: n.Name, Address: n.IP, Gateway: n.PodCIDR.Masked().Addr().Next(), Alive: alive[n.Name]})
	}
	return p
}

// certificates that the agent's identity holds.
func (e examined) certificates() []doctor.Certificate {
	id, err := session.LoadIdentity(e.cfg.DataDir) // not that in memory, which the session renews
	if err != nil {
		return nil
	}
	const (
		again = "the agent renews it while it has a session with the master: see its log (journalctl -u wp-agent); once it has expired, join again with the line that `wpctl token create --print-join-command` prints: pods go on"
		newCA = "plan a new one while all is well, after `wpctl cluster backup`: every node must join again, and every kubeconfig be made anew"
	)
	return append(certificateOf("this node's certificate", id.Certificate, again), certificateOf("the cluster's CA", id.CA, newCA)...)
}

func certificateOf(name, text, fix string) []doctor.Certificate {
	block, _ := pem.Decode([]byte(text))
	if block == nil {
		return nil
	}
	cert, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return nil
	}
	return []doctor.Certificate{{Name: name, NotBefore: cert.NotBefore, NotAfter: cert.NotAfter, Fix: fix}}
}
