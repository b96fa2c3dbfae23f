package doctor

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"sync"
	"time"
)

// Within bounds a whole examination.
const Within = 25 * time.Second

// State of what was examined.
type State string

// The states.
const (
	OK      State = "ok"
	Warning State = "warning" // works, but may not always
	Bad     State = "bad"
	Unknown State = "unknown" // could not be found out
)

// Mark is how a state is printed.
func (s State) Mark() string {
	switch s {
	case OK:
		return "✓"
	case Warning:
		return "!"
	case Bad:
		return "✗"
	}
	return "–"
}

// Finding is one thing that was examined.
type Finding struct {
	Check string `json:"check"`
	State State  `json:"state"`
	// What is the case, in one line; Fix what to do, a command where there is one.
	What string `json:"what"`
	Fix  string `json:"fix,omitempty"`
}

// Peer is another node.
type Peer struct {
	Name    string     `json:"name"`
	Address netip.Addr `json:"address"`
	// Gateway is the peer's end of its pod range, which answers pings as its pods would.
	Gateway netip.Addr `json:"gateway"`
	// Alive: this node's gossip hears of it.
	Alive bool `json:"alive,omitempty"`
}

// Certificate that something here depends on.
type Certificate struct {
	Name                string
	NotBefore, NotAfter time.Time
	Fix                 string
}

// Place is what this machine is for the cluster. What is not known is left out, and what depends on it is not examined.
type Place struct {
	// Agent and Master say what runs here, or shall; Running that this is asked by the agent itself.
	Agent, Master, Running bool
	DataDir                string
	DockerHost             string
	ResolvConf             string
	NodeIP, DNS            netip.Addr
	Pods, Services         netip.Prefix
	GossipPort             int
	// Floors at which pods are evicted, by the kubelet's signals; nil: its defaults.
	Floors map[string]Floor
	// MTU of pods; 0 if not known.
	MTU   int
	Peers []Peer
	// Masters are the addresses that the agent connects to, as HOST:PORT.
	Masters      []string
	Certificates []Certificate
	// Trouble is why the node's network could not be set up.
	Trouble string
}

// ErrNoProgram is what System.Run returns when a program is not installed.
var ErrNoProgram = errors.New("not installed")

// ErrTooBig is what System.Ping returns when the packet does not fit the machine's own link.
var ErrTooBig = errors.New("larger than the MTU of the link")

// System is the machine.
type System interface {
	ReadFile(path string) ([]byte, error)
	// Run a program and return what it prints; *exec.ExitError or another error when it fails.
	Run(ctx context.Context, name string, args ...string) (string, error)
	Disk(path string) (Disk, error)
	// Docker answers a GET of the Docker Engine's API.
	Docker(ctx context.Context, host, path string) ([]byte, error)
	Listeners() ([]Listener, error)
	// Reach opens a TCP connection.
	Reach(ctx context.Context, address string) error
	// Ping sends an ICMP echo of that many bytes in all that must not be fragmented, and waits for the answer.
	Ping(ctx context.Context, to netip.Addr, size int) error
	// LinkMTU is the largest packet that this machine sends to an address.
	LinkMTU(to netip.Addr) (int, error)
	// AskDNS asks a name server for the root's name servers and returns the response code.
	AskDNS(ctx context.Context, server netip.Addr) (rcode int, err error)
	// ClockSynced tells whether the kernel's clock is disciplined by somebody.
	ClockSynced() (bool, error)
	Root() bool
	Now() time.Time
}

// Disk is a file system.
type Disk struct {
	Size, Free         uint64
	Inodes, FreeInodes uint64
}

// Listener is a socket that waits for clients.
type Listener struct {
	Protocol string // tcp or udp
	Address  netip.AddrPort
	Program  string // empty if that is not known
}

type check struct {
	name string
	run  func(ctx context.Context, s System, p *Place) []Finding
}

// checks in the order in which they are told: what everything depends on first.
var checks = []check{
	{"docker", docker}, {"network", trouble}, {"ports", ports}, {"firewall", firewall}, {"kernel", kernel},
	{"reach", reach}, {"gossip", gossip}, {"mtu", mtu}, {"addresses", addresses}, {"dns", upstreams}, {"clock", clock},
	{"certificates", certificates}, {"disk", disks}, {"memory", memory}, {"selinux", selinux},
}

// Examine runs all checks that make sense for the place, side by side.
func Examine(ctx context.Context, s System, p *Place) []Finding {
	found := make([][]Finding, len(checks))
	var wg sync.WaitGroup
	for i, c := range checks {
		wg.Go(func() {
			found[i] = c.run(ctx, s, p)
			for j := range found[i] {
				found[i][j].Check = c.name
			}
		})
	}
	wg.Wait()
	var out []Finding
	for _, f := range found {
		out = append(out, f...)
	}
	return out
}

// Worst state of some findings.
func Worst(list []Finding) State {
	worst := OK
	for _, f := range list {
		if f.State == Bad || f.State == Warning && worst == OK {
			worst = f.State
		}
	}
	return worst
}

func good(format string, args ...any) Finding {
	return Finding{State: OK, What: fmt.Sprintf(format, args...)}
}

func unknown(format string, args ...any) Finding {
	return Finding{State: Unknown, What: fmt.Sprintf(format, args...)}
}

func warn(fix, format string, args ...any) Finding {
	return Finding{State: Warning, What: fmt.Sprintf(format, args...), Fix: fix}
}

func bad(fix, format string, args ...any) Finding {
	return Finding{State: Bad, What: fmt.Sprintf(format, args...), Fix: fix}
}
