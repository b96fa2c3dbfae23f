package diagnose

import (
	"errors"
	"fmt"
	"net/netip"
	"time"

	"github.com/whalepod/whalepod/node/diagnose/doctor"
)

// Paths below nodes/NAME/proxy. The version changes when fields change their meaning; unknown fields are ignored by both sides.
const (
	TracePath  = "/diagnose/v1/trace"
	DoctorPath = "/diagnose/v1/doctor"
)

const (
	// MaxTargets of each kind in one question.
	MaxTargets = 256
	// MaxBody of a question in bytes.
	MaxBody = 256 << 10
	// DialWithin is how long a connection may take: a lost SYN is sent again after a second.
	DialWithin = 2500 * time.Millisecond
	// AskWithin is how long a name server may take for one answer.
	AskWithin = 2 * time.Second
	// AnswerWithin bounds a whole answer.
	AnswerWithin = 15 * time.Second
)

// Question is what one node is asked about a Service or a pod.
type Question struct {
	// Service that it is about, as namespace/name: its addresses may be dialed, too. Empty for none.
	Service string `json:"service,omitempty"`
	// Rules of the Service are to be read.
	Rules bool `json:"rules,omitempty"`
	// From is the pod on this node from whose network names are asked and addresses dialed; nil means the node itself.
	From *Pod `json:"from,omitempty"`
	// Names to ask, as somebody would type them: the search list applies.
	Names []string `json:"names,omitempty"`
	// Dial these.
	Dial []Target `json:"dial,omitempty"`
	// Pings of full size to these addresses of pods.
	Pings []netip.Addr `json:"pings,omitempty"`
	// Sockets of these pods on this node.
	Sockets []Pod `json:"sockets,omitempty"`
	// Drops asks for rules of others that mention one of these addresses or everything.
	Drops []netip.Addr `json:"drops,omitempty"`
}

// Pod names a pod.
type Pod struct {
	Namespace string `json:"namespace"`
	Name      string `json:"name"`
	UID       string `json:"uid,omitempty"`
}

func (p Pod) String() string { return p.Namespace + "/" + p.Name }

// Target to dial.
type Target struct {
	Protocol string         `json:"protocol"` // TCP or UDP
	Address  netip.AddrPort `json:"address"`
}

func (t Target) String() string { return t.Address.String() + "/" + t.Protocol }

// Answer to a Question. What was not asked is empty; Errors say what could not be found out, by the question's field.
type Answer struct {
	Node    string            `json:"node"`
	Names   []Name            `json:"names,omitempty"`
	Dials   []Dialed          `json:"dials,omitempty"`
	Pings   []Pinged          `json:"pings,omitempty"`
	Rules   *Rules            `json:"rules,omitempty"`
	Sockets []PodSockets      `json:"sockets,omitempty"`
	Drops   []string          `json:"drops,omitempty"`
	Errors  map[string]string `json:"errors,omitempty"`
}

// Name is what a name server said.
type Name struct {
	Asked string `json:"asked"`
	// Full is the name that was answered, or the last that was tried.
	Full   string `json:"full,omitempty"`
	Server string `json:"server,omitempty"`
	// RCode as DNS writes it: NOERROR, NXDOMAIN, SERVFAIL … Empty when nobody answered; Error says why.
	RCode     string       `json:"rcode,omitempty"`
	CNAME     string       `json:"cname,omitempty"`
	Addresses []netip.Addr `json:"addresses,omitempty"`
	Error     string       `json:"error,omitempty"`
}

// How dialing ended.
const (
	Answered    = "answered"    // connected; UDP: something came back
	Silent      = "silent"      // UDP: nothing came back, and nobody refused
	Refused     = "refused"     // somebody is there and says no: a reset, or ICMP port unreachable
	TimedOut    = "timeout"     // nobody said anything
	Unreachable = "unreachable" // no route, or somebody on the way says no
	Forbidden   = "forbidden"   // this machine's own rules drop it
	Failed      = "failed"      // anything else
	NotAllowed  = "notAllowed"  // not an address of the cluster: not tried
)

// Dialed is how dialing a target went.
type Dialed struct {
	Target
	Result string `json:"result"`
	// Error in the kernel's words.
	Error string `json:"error,omitempty"`
	// Via is the device that the route to it leads through.
	Via    string  `json:"via,omitempty"`
	Millis float64 `json:"millis,omitempty"`
}

// OK tells whether somebody is there, as far as can be told.
func (d Dialed) OK() bool { return d.Result == Answered || d.Result == Silent }

// Pinged is whether packets of different sizes arrive that must not be fragmented.
type Pinged struct {
	Address netip.Addr `json:"address"`
	// Small ones are answered; else nothing is known: somebody may drop pings.
	Small bool `json:"small"`
	// Full are those of Size bytes, the largest that the machine or the pod sends.
	Full bool `json:"full"`
	Size int  `json:"size,omitempty"`
}

// Rules of one Service on one node.
type Rules struct {
	// Known: the node has heard of the Service. Applied: its rules have been in force at least once.
	Known   bool  `json:"known"`
	Applied bool  `json:"applied"`
	Ways    []Way `json:"ways,omitempty"`
}

// Way into a Service: one address and port, with what the node wants its kernel to do and what the kernel does.
type Way struct {
	Port     string `json:"port"` // of the Service, by name or number
	Protocol string `json:"protocol"`
	// Address is 0.0.0.0 for a node port: any address of the node.
	Address netip.AddrPort `json:"address"`
	Want    Verdict        `json:"want"`
	Have    Verdict        `json:"have"`
}

// Verdicts.
const (
	ToEndpoints = "endpoints"
	Reject      = "reject"
	Drop        = "drop"
	Nothing     = "nothing" // no rule knows this address
)

// Verdict is what happens to a new connection.
type Verdict struct {
	Action    string           `json:"action"`
	Endpoints []netip.AddrPort `json:"endpoints,omitempty"`
	// Missing says where the way through the rules ends that should lead further.
	Missing string `json:"missing,omitempty"`
}

// PodSockets are where a pod's processes listen.
type PodSockets struct {
	Pod
	Listening []Socket `json:"listening,omitempty"`
	Error     string   `json:"error,omitempty"`
}

// Socket that waits for clients.
type Socket struct {
	Protocol string         `json:"protocol"`
	Address  netip.AddrPort `json:"address"`
	// Waiting are connections that the kernel has accepted, and the program has not for a while.
	Waiting int `json:"waiting,omitempty"`
}

// Covers tells whether clients of this address and port reach the socket.
func (s Socket) Covers(protocol string, to netip.AddrPort) bool {
	a := s.Address.Addr().Unmap()
	return s.Protocol == protocol && s.Address.Port() == to.Port() && (a.IsUnspecified() || a == to.Addr())
}

// Exam asks a node how it is. It has nothing to say yet: the node knows its place and its peers.
type Exam struct{}

// Health is the answer.
type Health struct {
	Node     string           `json:"node"`
	Time     time.Time        `json:"time"` // when this was sent
	Findings []doctor.Finding `json:"findings"`
}

// Validate a question, which came over the network.
func (q *Question) Validate() error {
	for what, n := range map[string]int{"names": len(q.Names), "addresses to dial": len(q.Dial), "pods": len(q.Sockets), "addresses": max(len(q.Drops), len(q.Pings))} {
		if n > MaxTargets {
			return fmt.Errorf("%d %s, and %d are the most", n, what, MaxTargets)
		}
	}
	for _, t := range q.Dial {
		if t.Protocol != "TCP" && t.Protocol != "UDP" {
			return fmt.Errorf("cannot dial protocol %q", t.Protocol)
		}
		if !t.Address.IsValid() || t.Address.Port() == 0 {
			return errors.New("an address to dial is missing")
		}
	}
	for _, n := range q.Names {
		if !validName(n) {
			return fmt.Errorf("not a name: %.80q", n)
		}
	}
	return nil
}
