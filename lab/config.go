package lab

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"time"
)

// Step is one stage of bringing a lab up or down, told to Config.Log twice: when
// it begins, and when it ends (Done).
type Step struct {
	Name string
	Note string // what there is to say at the end
	Done bool
	Took time.Duration
	Err  error
}

// Config says what lab to make. The zero value of each field but Dir and Bin is
// the demo's.
type Config struct {
	Nodes  int          // how many; default 3
	Dir    string       // where state, logs and the nodes' data are; made if missing
	Cache  string       // images and the engines' data; default $WP_CACHE or /var/cache/whalepod
	Links  int          // 1 (default), or 2 with a router between them
	Prefix string       // of every namespace and node name; default "wp-"
	Subnet netip.Prefix // of the switch, at least a /26 of documentation addresses; default 198.51.100.0/24
	// Subnet2 is the second link's, likewise; default 203.0.113.0/24
	Subnet2 netip.Prefix
	Bin     string     // directory of wp-master, wp-agent, wpctl and p4app
	Images  string     // "auto" (default), "lab" or "hub": see Lab.PrepareImages
	Log     func(Step) // told of the progress; may be nil

	MasterArgs []string // further arguments of wp-master
	AgentArgs  []string // further arguments of wp-agent
}

const (
	maxNodes     = 20 // the engines alone take 115 MB each
	nodeAddress  = 11 // last byte of the first node's address
	registryPort = 5000
	privatePort  = 5001
	apiPort      = 6443
	agentPort    = 6444
	// maxSocket is the longest path of a Unix socket, sun_path in unix(7).
	maxSocket = 107
)

// withDefaults completes and checks a configuration.
func (c Config) withDefaults() (Config, error) {
	if c.Nodes == 0 {
		c.Nodes = 3
	}
	if c.Nodes < 1 || c.Nodes > maxNodes {
		return c, fmt.Errorf("a lab has 1 to %d nodes, not %d", maxNodes, c.Nodes)
	}
	if c.Links == 0 {
		c.Links = 1
	}
	if c.Links < 1 || c.Links > min(c.Nodes, maxLinks) {
		return c, fmt.Errorf("%d nodes hang on 1 to %d links, not %d", c.Nodes, min(c.Nodes, maxLinks), c.Links)
	}
	if c.Prefix == "" {
		c.Prefix = "wp-"
	}
	if !validPrefix(c.Prefix) {
		return c, fmt.Errorf("prefix %q: 1 to 8 lower-case letters, digits and dashes, beginning with a letter", c.Prefix)
	}
	if !c.Subnet.IsValid() {
		c.Subnet = netip.MustParsePrefix("198.51.100.0/24")
	}
	if !c.Subnet2.IsValid() {
		c.Subnet2 = netip.MustParsePrefix("203.0.113.0/24")
	}
	for _, p := range []netip.Prefix{c.Subnet, c.Subnet2} {
		if !p.Addr().Is4() || p.Bits() > 26 || p.Masked() != p {
			return c, fmt.Errorf("subnet %s: an IPv4 network of at least a /26 is needed", p)
		}
	}
	if c.Subnet.Overlaps(c.Subnet2) {
		return c, fmt.Errorf("the links' subnets %s and %s overlap", c.Subnet, c.Subnet2)
	}
	if c.Cache == "" {
		c.Cache = os.Getenv("WP_CACHE")
	}
	if c.Cache == "" {
		c.Cache = "/var/cache/whalepod"
	}
	switch c.Images {
	case "":
		c.Images = "auto"
	case "auto", "lab", "hub":
	default:
		return c, fmt.Errorf("images %q: auto, lab or hub", c.Images)
	}
	if c.Dir == "" || c.Bin == "" {
		return c, errors.New("a lab needs a directory for its state and the one of the binaries")
	}
	for _, p := range []*string{&c.Dir, &c.Cache, &c.Bin} {
		abs, err := filepath.Abs(*p)
		if err != nil {
			return c, err
		}
		*p = abs
	}
	if s := filepath.Join(c.Dir, fmt.Sprintf("node%d", c.Nodes), "docker.sock"); len(s) > maxSocket {
		return c, fmt.Errorf("%s is too long for a socket (%d bytes at most): choose a shorter directory", s, maxSocket)
	}
	if c.Log == nil {
		c.Log = func(Step) {}
	}
	return c, nil
}

// validPrefix keeps names usable as namespace, node and cgroup names.
func validPrefix(p string) bool {
	if len(p) > 8 || p[0] < 'a' || p[0] > 'z' {
		return false
	}
	for _, r := range p {
		if (r < 'a' || r > 'z') && (r < '0' || r > '9') && r != '-' {
			return false
		}
	}
	return true
}

// address returns the n-th address of the first link.
func (c Config) address(n int) netip.Addr { return nth(c.Subnet, n) }

// nth returns the n-th address of a network.
func nth(p netip.Prefix, n int) netip.Addr {
	b := p.Addr().As4()
	v := uint32(b[0])<<24 | uint32(b[1])<<16 | uint32(b[2])<<8 | uint32(b[3])
	v += uint32(n)
	return netip.AddrFrom4([4]byte{byte(v >> 24), byte(v >> 16), byte(v >> 8), byte(v)})
}

func (c Config) labName() string       { return c.Prefix + "lab" }
func (c Config) nodeName(i int) string { return fmt.Sprintf("%snode%d", c.Prefix, i) }

// cgroup is the parent of all containers of this lab's engines.
func (c Config) cgroup() string { return "/whalepod-" + c.Prefix + "lab" }
