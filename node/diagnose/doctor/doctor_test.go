package doctor

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"
)

// fake is a machine.
type fake struct {
	files     map[string]string
	runs      map[string]string // what programs print; what is not here fails
	programs  string            // that are installed
	disks     map[string]Disk
	docker    string
	dockerErr error
	listeners []Listener
	reach     map[string]error
	mtu, link int  // of the way, and of our own link
	told      bool // somebody on the way says what fits
	deaf      netip.Addr
	dns       map[string]int // -1: no answer
	synced    bool
	notRoot   bool
}

var day = time.Date(2026, 5, 1, 12, 0, 0, 0, time.UTC)

func (f *fake) ReadFile(path string) ([]byte, error) {
	if s, ok := f.files[path]; ok {
		return []byte(s), nil
	}
	return nil, os.ErrNotExist
}

func (f *fake) Run(_ context.Context, name string, args ...string) (string, error) {
	line := strings.Join(append([]string{name}, args...), " ")
	if s, ok := f.runs[line]; ok {
		return s, nil
	}
	if !strings.Contains(f.programs, name) {
		return "", fmt.Errorf("%s: %w", name, ErrNoProgram)
	}
	return "", errors.New(name + ": exit status 1: RTNETLINK answers: Operation not supported")
}

func (f *fake) Disk(path string) (Disk, error) {
	if d, ok := f.disks[path]; ok {
		return d, nil
	}
	return Disk{}, os.ErrNotExist
}

func (f *fake) Docker(context.Context, string, string) ([]byte, error) {
	return []byte(f.docker), f.dockerErr
}
func (f *fake) Listeners() ([]Listener, error)                { return f.listeners, nil }
func (f *fake) Reach(_ context.Context, address string) error { return f.reach[address] }

func (f *fake) Ping(_ context.Context, to netip.Addr, size int) error {
	switch {
	case to == f.deaf || size > f.mtu && size <= f.link:
		if f.told {
			f.link = f.mtu
		}
		return errors.New("no answer")
	case size > f.link:
		return ErrTooBig
	}
	return nil
}

func (f *fake) LinkMTU(netip.Addr) (int, error) { return f.link, nil }

func (f *fake) AskDNS(_ context.Context, server netip.Addr) (int, error) {
	if n, ok := f.dns[server.String()]; ok && n >= 0 {
		return n, nil
	}
	return 0, errors.New("no answer")
}

func (f *fake) ClockSynced() (bool, error) { return f.synced, nil }
func (f *fake) Root() bool                 { return !f.notRoot }
func (f *fake) Now() time.Time             { return day }

const (
	goodDocker = `{"ServerVersion": "24.0.7", "Driver": "overlay2", "CgroupDriver": "systemd", "CgroupVersion": "2", "DockerRootDir": "/var/lib/docker", "LiveRestoreEnabled": true, "SecurityOptions": ["name=seccomp"]}`
	noRules    = ":INPUT ACCEPT [0:0]\n:FORWARD DROP [0:0]\n:OUTPUT ACCEPT [0:0]\n-A INPUT -m comment --comment \"whalepod: services and pods\" -j WP-INPUT\n-A FORWARD -m comment --comment \"whalepod: services and pods\" -j WP-FORWARD\n-A FORWARD -j DOCKER-USER\n"
	gib        = 1 << 30
)

// healthy is a node on which nothing is wrong.
func healthy() (*fake, *Place) {
	f := &fake{
		files: map[string]string{
			"/proc/meminfo":                              "MemTotal: 2000000 kB\nMemAvailable: 900000 kB\nSwapTotal: 1000000 kB\nSwapFree: 1000000 kB\n",
			"/proc/sys/net/ipv4/ip_forward":              "1\n",
			"/proc/sys/net/netfilter/nf_conntrack_count": "100\n",
			"/proc/sys/net/netfilter/nf_conntrack_max":   "65536\n",
			"/etc/resolv.conf":                           "nameserver 198.51.100.53\nnameserver 10.254.254.1\n",
		},
		runs: map[string]string{
			"iptables-save -t filter":                                  noRules,
			"ip -4 -o route show table main":                           "default via 198.51.100.1 dev eth0\n10.244.1.0/24 dev wp0 proto kernel scope link src 10.244.1.1\n10.244.2.0/24 via 198.51.100.12 dev eth0 proto 87 onlink\n10.254.0.0/16 dev wp0 proto 87 scope link src 10.244.1.1\nunreachable 10.244.0.0/16 proto 87 metric 1048576\n172.17.0.0/16 dev docker0 proto kernel scope link src 172.17.0.1\n198.51.100.0/24 dev eth0 proto kernel scope link src 198.51.100.11\n",
			"ip -4 -o addr show to 198.51.100.11":                      "2: eth0    inet 198.51.100.11/24 scope global eth0\n",
			"unshare -n ip link add wpd0 type veth peer name wpd1":     "",
			"unshare -n true":                                          "",
			"unshare -n ip link add wpd0 type bridge":                  "",
			"unshare -n ip link add wpd0 type vxlan id 1 dstport 8472": "",
			"unshare -n iptables -t nat -S PREROUTING":                 "",
		},
		programs: "iptables-save ip unshare",
		disks:    map[string]Disk{"/var/lib/whalepod": {100 * gib, 50 * gib, 1000, 900}, "/var/lib/docker": {100 * gib, 50 * gib, 0, 0}},
		docker:   goodDocker, mtu: 1500, link: 1500, dns: map[string]int{"198.51.100.53": 0}, synced: true, reach: map[string]error{},
		listeners: []Listener{{"tcp", netip.MustParseAddrPort("0.0.0.0:22"), "sshd"}, {"tcp", netip.MustParseAddrPort("[::]:7946"), "wp-agent"}, {"udp", netip.MustParseAddrPort("127.0.0.53:53"), "systemd-resolve"}},
	}
	at := netip.MustParseAddr
	return f, &Place{
		Agent: true, Running: true, DataDir: "/var/lib/whalepod", DockerHost: "unix:///var/run/docker.sock", ResolvConf: "/etc/resolv.conf",
		NodeIP: at("198.51.100.11"), DNS: at("10.254.254.1"), Pods: netip.MustParsePrefix("10.244.0.0/16"), Services: netip.MustParsePrefix("10.254.0.0/16"),
		GossipPort: 7946, MTU: 1500, Masters: []string{"198.51.100.11:6444"},
		Peers: []Peer{
			{"n2", at("198.51.100.12"), at("10.244.2.1"), true}, {"n3", at("198.51.100.13"), at("10.244.3.1"), true},
		},
		Certificates: []Certificate{{"this node's certificate", day.Add(-time.Hour), day.Add(300 * 24 * time.Hour), "renew"}},
	}
}

func TestNothingIsWrong(t *testing.T) {
	f, p := healthy()
	list := Examine(t.Context(), f, p)
	seen := map[string]bool{}
	for _, x := range list {
		seen[x.Check] = true
		if x.State != OK || x.What == "" || x.Fix != "" {
			t.Errorf("%+v", x)
		}
	}
	for _, c := range checks {
		if !seen[c.name] {
			t.Errorf("nothing is said of %s", c.name)
		}
	}
	if Worst(list) != OK {
		t.Error(Worst(list))
	}
}

// Each thing that is wrong is the only one that is found, with its fix.
func TestFindings(t *testing.T) {
	for name, c := range map[string]struct {
		change    func(f *fake, p *Place)
		check     string
		state     State
		what, fix string
	}{
		"no docker":       {func(f *fake, _ *Place) { f.dockerErr = errors.New("connect: no such file or directory") }, "docker", Bad, "does not answer: connect: no such", "systemctl enable --now docker"},
		"docker not ours": {func(f *fake, _ *Place) { f.dockerErr = errors.New("permission denied") }, "docker", Bad, "permission denied", "sudo"},
		"old docker":      {func(f *fake, _ *Place) { f.docker = strings.Replace(goodDocker, "24.0.7", "1.12.6", 1) }, "docker", Bad, "1.12.6 is older than 1.13", "newer"},
		"vfs":             {func(f *fake, _ *Place) { f.docker = strings.Replace(goodDocker, "overlay2", "vfs", 1) }, "docker", Warning, "vfs copies", "overlay2"},
		"devicemapper":    {func(f *fake, _ *Place) { f.docker = strings.Replace(goodDocker, "overlay2", "devicemapper", 1) }, "docker", Warning, "devicemapper is slow", "overlay2"},
		"no live-restore": {func(f *fake, _ *Place) { f.docker = strings.Replace(goodDocker, "true", "false", 1) }, "docker", Warning, "end when Docker is restarted", `"live-restore": true`},
		"bad daemon.json": {func(f *fake, _ *Place) { f.files["/etc/docker/daemon.json"] = "{" }, "docker", Bad, "not JSON", "correct /etc/docker/daemon.json"},
		"network":         {func(_ *fake, p *Place) { p.Trouble = "DNS: bind: address already in use" }, "network", Bad, "address already in use", "tries again"},
		"gossip port": {func(f *fake, _ *Place) {
			f.listeners = append(f.listeners, Listener{"udp", netip.MustParseAddrPort("0.0.0.0:7946"), "consul"})
		}, "ports", Bad, "consul listens on 7946/udp, the port of gossip", "ss -lnp"},
		"API port": {func(f *fake, p *Place) {
			p.Master = true
			f.listeners = append(f.listeners, Listener{"tcp", netip.MustParseAddrPort("[::]:6443"), "kube-apiserver"})
		}, "ports", Bad, "kube-apiserver listens on 6443/tcp", "stop it"},
		"dns port": {func(f *fake, _ *Place) {
			f.listeners = append(f.listeners, Listener{"udp", netip.MustParseAddrPort("0.0.0.0:53"), "dnsmasq"})
		}, "ports", Bad, "dnsmasq listens on port 53 of every address", "bind-interfaces"},
		"node port": {func(f *fake, _ *Place) {
			f.listeners = append(f.listeners, Listener{"tcp", netip.MustParseAddrPort("0.0.0.0:30080"), "java"})
		}, "ports", Warning, "java listens on 30080", "outside 30000-32767"},
		"iptables drops": {func(f *fake, _ *Place) {
			f.runs["iptables-save -t filter"] = noRules + "-A INPUT -p tcp -m tcp --dport 7946 -j DROP\n"
		}, "firewall", Bad, "7946/tcp (gossip) is blocked: iptables: -A INPUT -p tcp -m tcp --dport 7946 -j DROP", "iptables -I INPUT -p tcp --dport 7946 -j ACCEPT"},
		"ufw": {func(f *fake, _ *Place) {
			f.files["/etc/ufw/ufw.conf"] = "# on\nENABLED=yes\n"
			f.runs["iptables-save -t filter"] = strings.Replace(noRules, "INPUT ACCEPT", "INPUT DROP", 1) + "-A INPUT -j ufw-user-input\n:ufw-user-input - [0:0]\n-A ufw-user-input -p udp -m multiport --dports 7946,8472 -j ACCEPT\n"
		}, "firewall", Bad, "7946/tcp (gossip) is blocked: iptables: -P INPUT DROP", "ufw allow 7946/tcp"},
		"pods dropped": {func(f *fake, _ *Place) {
			f.runs["iptables-save -t filter"] = strings.Replace(noRules, "-A FORWARD", "-A FORWARD -s 10.244.0.0/16 -j REJECT --reject-with icmp-host-prohibited\n-A FORWARD", 1)
		}, "firewall", Bad, "packets of pods are dropped: iptables: -A FORWARD -s 10.244.0.0/16 -j REJECT", "DOCKER-USER"},
		"firewalld, ports": {func(f *fake, _ *Place) {
			f.programs += " firewall-cmd"
			f.runs["firewall-cmd --state"] = "running\n"
			f.runs["firewall-cmd --get-zone-of-interface=eth0"] = "public\n"
			f.runs["firewall-cmd --zone=public --query-port=7946/tcp"] = "yes\n"
			f.runs["firewall-cmd --get-zone-of-source=10.244.0.0/16"] = "trusted\n"
		}, "firewall", Bad, "firewalld does not let 7946/udp, 8472/udp through", "firewall-cmd --permanent --zone=public --add-port=7946/udp --add-port=8472/udp && firewall-cmd --reload"},
		"firewalld, pods": {func(f *fake, _ *Place) {
			f.programs += " firewall-cmd"
			f.runs["firewall-cmd --state"] = "running\n"
			f.runs["firewall-cmd --get-zone-of-interface=eth0"] = "trusted\n"
		}, "firewall", Bad, "does not forward packets of pods (10.244.0.0/16)", "--zone=trusted --add-source=10.244.0.0/16"},
		"nftables input": {func(f *fake, _ *Place) {
			f.runs["nft list ruleset"] = "table inet filter {\n\tchain input {\n\t\ttype filter hook input priority filter; policy drop;\n\t\ttcp dport { 22, 7000-8000 } accept\n\t\tudp dport 8472 accept\n\t}\n}\n"
		}, "firewall", Warning, "table inet filter, chain input, seems to drop 7946/udp", "nft insert rule inet filter input"},
		"nftables forward": {func(f *fake, _ *Place) {
			f.runs["nft list ruleset"] = "table inet fw {\n\tchain fwd {\n\t\ttype filter hook forward priority 0; policy drop;\n\t\tct state established accept\n\t}\n}\n"
		}, "firewall", Warning, "chain fwd, seems to drop packets of pods", "ip saddr 10.244.0.0/16 accept"},
		"no iptables": {func(f *fake, _ *Place) {
			delete(f.runs, "iptables-save -t filter")
			f.programs = "ip unshare"
		}, "firewall", Bad, "iptables is not installed", "apt-get install iptables"},
		"forwarding off":   {func(f *fake, _ *Place) { f.files["/proc/sys/net/ipv4/ip_forward"] = "0\n" }, "kernel", Bad, "does not forward", "sysctl -w net.ipv4.ip_forward=1"},
		"conntrack full":   {func(f *fake, _ *Place) { f.files["/proc/sys/net/netfilter/nf_conntrack_count"] = "65000" }, "kernel", Bad, "table is full (65000 of 65536)", "nf_conntrack_max=131072"},
		"conntrack nearly": {func(f *fake, _ *Place) { f.files["/proc/sys/net/netfilter/nf_conntrack_count"] = "56000" }, "kernel", Warning, "nearly full", "nf_conntrack_max=131072"},
		"no vxlan":         {func(f *fake, _ *Place) { delete(f.runs, "unshare -n ip link add wpd0 type vxlan id 1 dstport 8472") }, "kernel", Warning, "no vxlan", "one link"},
		"no veth":          {func(f *fake, _ *Place) { delete(f.runs, "unshare -n ip link add wpd0 type veth peer name wpd1") }, "kernel", Bad, "no veth", "kernel with it"},
		"master shut off":  {func(f *fake, _ *Place) { f.reach["198.51.100.11:6444"] = errors.New("i/o timeout") }, "reach", Bad, "the master cannot be reached at 198.51.100.11:6444: i/o timeout", "open 6444/tcp on the master"},
		"no wp-agent":      {func(f *fake, _ *Place) { f.reach["198.51.100.13:7946"] = errors.New("connection refused") }, "reach", Bad, "n3 cannot be reached", "see whether wp-agent runs on n3"},
		"gossip silent":    {func(_ *fake, p *Place) { p.Peers[1].Alive = false }, "gossip", Bad, "does not hear from n3", "7946/udp"},
		"small mtu":        {func(f *fake, _ *Place) { f.mtu = 1412 }, "mtu", Bad, "packets of more than 1412 bytes to n2 are lost", "--mtu 1410 on all nodes"},
		"pods not reached": {func(f *fake, p *Place) {
			f.deaf = p.Peers[0].Gateway
			f.reach["10.244.2.1:7946"] = errors.New("i/o timeout")
		}, "mtu", Bad, "pods of n2 cannot be reached from here: 10.244.2.1 does not answer", "--always-vxlan"},
		"overlap": {func(f *fake, _ *Place) {
			f.runs["ip -4 -o route show table main"] += "10.244.64.0/20 via 198.51.100.2 dev eth0\n"
		}, "addresses", Bad, "route to 10.244.64.0/20, within the range of pods 10.244.0.0/16", "--pod-cidr"},
		"pings dropped": {func(f *fake, p *Place) {
			f.deaf = p.Peers[0].Gateway
			f.reach["10.244.2.1:7946"] = errors.New("connection refused")
		}, "mtu", Unknown, "n2 answers no pings", ""},
		"around services": {func(f *fake, _ *Place) { f.runs["ip -4 -o route show table main"] += "10.0.0.0/8 dev tun0\n" }, "addresses", Warning, "route to 10.0.0.0/8, around the range of Services", "--service-cidr"},
		"legacy rules beside nf_tables": {func(f *fake, _ *Place) {
			f.runs["iptables --version"], f.files["/proc/net/ip_tables_names"] = "iptables v1.8.9 (nf_tables)\n", "nat\nfilter\n"
			f.runs["iptables-legacy-save -t filter"] = ":INPUT DROP [0:0]\n:FORWARD ACCEPT [0:0]\n-A INPUT -p udp -m multiport --dports 7946,8472 -j ACCEPT\n"
		}, "firewall", Bad, "7946/tcp (gossip) is blocked: iptables-legacy: -P INPUT DROP", "iptables-legacy -I INPUT -p tcp --dport 7946 -j ACCEPT"},
		"nf_tables' rules beside legacy": {func(f *fake, _ *Place) {
			f.runs["iptables --version"] = "iptables v1.8.9 (legacy)\n"
			f.runs["iptables-nft-save -t filter"] = ":INPUT ACCEPT [0:0]\n:FORWARD DROP [0:0]\n"
		}, "firewall", Bad, "packets of pods are dropped: iptables-nft: -P FORWARD DROP", "iptables-nft -I FORWARD -s 10.244.0.0/16 -j ACCEPT"},
		"nftables, a table called as iptables' is": {func(f *fake, _ *Place) {
			f.runs["nft list ruleset"] = "table ip filter {\n\tchain input {\n\t\ttype filter hook input priority filter; policy drop;\n\t\tudp dport { 7946, 8472 } accept\n\t}\n}\n"
		}, "firewall", Warning, "table ip filter, chain input, seems to drop 7946/tcp", "nft insert rule ip filter input tcp dport { 7946 } accept; nft insert rule ip filter input udp dport"},
		"own address":       {func(_ *fake, p *Place) { p.NodeIP = netip.MustParseAddr("10.254.3.4") }, "addresses", Bad, "own address 10.254.3.4", "--service-cidr"},
		"no resolv.conf":    {func(f *fake, _ *Place) { delete(f.files, "/etc/resolv.conf") }, "dns", Bad, "no name servers", "nameserver ADDRESS"},
		"only ourselves":    {func(f *fake, _ *Place) { f.files["/etc/resolv.conf"] = "nameserver 10.254.254.1\n" }, "dns", Bad, "only the cluster's own", "nameserver ADDRESS"},
		"dns silent":        {func(f *fake, _ *Place) { f.dns = nil }, "dns", Bad, "198.51.100.53 (no answer)", "53/udp"},
		"dns loop":          {func(f *fake, _ *Place) { f.dns["198.51.100.53"] = rcodeServerFailure }, "dns", Bad, "SERVFAIL", "name servers"},
		"one dns silent":    {func(f *fake, _ *Place) { f.files["/etc/resolv.conf"] += "nameserver 198.51.100.54\n" }, "dns", Warning, "198.51.100.54", "name servers"},
		"clock":             {func(f *fake, _ *Place) { f.synced = false }, "clock", Warning, "nobody sets the clock", "timedatectl"},
		"expired":           {func(_ *fake, p *Place) { p.Certificates[0].NotAfter = day.Add(-time.Minute) }, "certificates", Bad, "this node's certificate: expired 2026-05-01 11:59:00", "renew"},
		"expires":           {func(_ *fake, p *Place) { p.Certificates[0].NotAfter = day.Add(30 * time.Hour) }, "certificates", Warning, "expires in 30 hours", "renew"},
		"clock in the past": {func(_ *fake, p *Place) { p.Certificates[0].NotBefore = day.Add(time.Hour) }, "certificates", Bad, "valid from 2026-05-01 13:00:00 on, and the clock here says 2026-05-01 12:00:00", "set the clock"},
		"disk full":         {func(f *fake, _ *Place) { f.disks["/var/lib/docker"] = Disk{100 * gib, 14 * gib, 0, 0} }, "disk", Bad, "images: 14 % of 100.0 GiB is free on /var/lib/docker", "docker image prune"},
		"disk nearly full":  {func(f *fake, _ *Place) { f.disks["/var/lib/whalepod"] = Disk{100 * gib, 14 * gib, 0, 0} }, "disk", Warning, "data: 14 %", "docker image prune"},
		"disk full, in bytes": {func(f *fake, p *Place) {
			p.Floors = map[string]Floor{"imagefs.available": {Bytes: 2 * gib}}
			f.disks["/var/lib/docker"], f.disks["/var/lib/whalepod"] = Disk{100 * gib, gib, 0, 0}, Disk{100 * gib, gib, 1000, 1}
		}, "disk", Bad, "images: 1 % of 100.0 GiB is free on /var/lib/docker, below the 2.0 GiB at which pods are evicted", "docker image prune"},
		"inodes": {func(f *fake, _ *Place) { f.disks["/var/lib/whalepod"] = Disk{100 * gib, 50 * gib, 1000, 30} }, "disk", Bad, "3 % of the inodes", "du --inodes"},
		"memory": {func(f *fake, _ *Place) {
			f.files["/proc/meminfo"] = "MemTotal: 2000000 kB\nMemAvailable: 50000 kB\nSwapTotal: 0 kB\n"
		}, "memory", Bad, "49 MiB of 1.9 GiB memory are left", "wpctl top pods"},
		"no swap": {func(f *fake, _ *Place) {
			f.files["/proc/meminfo"] = "MemTotal: 1000000 kB\nMemAvailable: 500000 kB\nSwapTotal: 0 kB\n"
		}, "memory", Warning, "no swap", "swapon"},
		"tiny": {func(f *fake, _ *Place) {
			f.files["/proc/meminfo"] = "MemTotal: 400000 kB\nMemAvailable: 300000 kB\nSwapTotal: 100 kB\n"
		}, "memory", Warning, "is little for Docker", "1 GB"},
		"selinux": {func(f *fake, _ *Place) {
			f.files["/sys/fs/selinux/enforce"] = "1"
			f.docker = strings.Replace(goodDocker, "seccomp", "selinux", 1)
		}, "selinux", Warning, "SELinux enforces", "container_file_t"},
	} {
		t.Run(name, func(t *testing.T) {
			f, p := healthy()
			c.change(f, p)
			found := false
			for _, x := range Examine(t.Context(), f, p) {
				hit := x.Check == c.check && x.State == c.state && strings.Contains(x.What, c.what) && strings.Contains(x.Fix, c.fix)
				found = found || hit
				if x.State != OK && x.Check != c.check {
					t.Errorf("also: %+v", x)
				}
				if x.State != OK && x.State != Unknown && x.Fix == "" {
					t.Errorf("no fix: %+v", x)
				}
			}
			if !found {
				t.Errorf("not found in %+v", Examine(t.Context(), f, p))
			}
		})
	}
}

// What is no fault is not called one.
func TestNoFalseAlarms(t *testing.T) {
	for name, change := range map[string]func(f *fake, p *Place){
		"smaller link of our own": func(f *fake, _ *Place) { f.link, f.mtu = 1450, 1450 },
		"docker without iptables": func(f *fake, _ *Place) { f.files["/etc/docker/daemon.json"] = `{"iptables": false}` },
		"selinux without docker":  func(f *fake, _ *Place) { f.files["/sys/fs/selinux/enforce"] = "1" },
		"drops of other ports": func(f *fake, _ *Place) {
			f.runs["iptables-save -t filter"] = noRules + "-A INPUT -p tcp -m tcp --dport 3306 -j DROP\n"
		},
		"drops what is established": func(f *fake, _ *Place) {
			f.runs["iptables-save -t filter"] = noRules + "-A INPUT -m conntrack --ctstate INVALID -j DROP\n"
		},
		"drops behind an accept": func(f *fake, _ *Place) {
			f.runs["iptables-save -t filter"] = noRules + "-A INPUT -s 198.51.100.0/24 -j ACCEPT\n-A INPUT -j REJECT --reject-with icmp-host-prohibited\n"
		},
		"matches that nobody understands": func(f *fake, _ *Place) {
			f.runs["iptables-save -t filter"] = noRules + "-A INPUT -m recent --update --seconds 60 --name bad --rsource -j DROP\n"
		},
		"chains that return": func(f *fake, _ *Place) {
			f.runs["iptables-save -t filter"] = noRules + ":mine - [0:0]\n-A INPUT -j mine\n-A mine ! -i eth9 -j RETURN\n-A mine -j DROP\n"
		},
		"firewalld open": func(f *fake, _ *Place) {
			f.programs += " firewall-cmd"
			f.runs["firewall-cmd --state"] = "running\n"
			for _, q := range []string{"7946/tcp", "7946/udp", "8472/udp"} {
				f.runs["firewall-cmd --query-port="+q] = "yes\n"
			}
			f.runs["firewall-cmd --get-zone-of-source=10.244.0.0/16"] = "trusted\n"
		},
		"firewalld, a service": func(f *fake, _ *Place) {
			f.programs += " firewall-cmd"
			f.runs["firewall-cmd --state"] = "running\n"
			f.runs["firewall-cmd --query-port=8472/udp"] = "yes\n"
			f.runs["firewall-cmd --list-all"] = "public (active)\n  target: default\n  services: ssh whalepod\n  ports: 8472/udp\n"
			f.runs["firewall-cmd --info-service=whalepod"] = "whalepod\n  ports: 7946/tcp 7946/udp\n  source-ports: \n"
			f.runs["firewall-cmd --get-zone-of-source=10.244.0.0/16"] = "trusted\n"
		},
		"firewalld, a zone that accepts": func(f *fake, _ *Place) {
			f.programs += " firewall-cmd"
			f.runs["firewall-cmd --state"] = "running\n"
			f.runs["firewall-cmd --list-all"] = "lan (active)\n  target: ACCEPT\n  services: \n"
			f.runs["firewall-cmd --get-zone-of-source=10.244.0.0/16"] = "trusted\n"
		},
		"nft of docker and iptables": func(f *fake, _ *Place) {
			f.runs["nft list ruleset"] = "# Warning: table ip filter is managed by iptables-nft, do not touch!\ntable ip filter {\n\tchain INPUT {\n\t\ttype filter hook input priority filter; policy drop;\n\t}\n}\ntable inet firewalld {\n\tchain x {\n\t\ttype filter hook input priority filter; policy drop;\n\t}\n}\ntable inet open {\n\tchain input {\n\t\ttype filter hook input priority filter; policy accept;\n\t\tip saddr 192.0.2.9 drop\n\t}\n}\n"
		},
		"namespaces not allowed": func(f *fake, _ *Place) {
			for k := range f.runs {
				if strings.HasPrefix(k, "unshare") {
					delete(f.runs, k)
				}
			}
			f.programs = "iptables-save ip"
		},
		"little room, as somebody wants it": func(f *fake, p *Place) {
			p.Floors = map[string]Floor{"imagefs.available": {Bytes: 2 * gib}}
			f.disks["/var/lib/docker"], f.disks["/var/lib/whalepod"] = Disk{100 * gib, 4 * gib, 0, 0}, Disk{100 * gib, gib, 1000, 1}
		},
		"no legacy tables": func(f *fake, _ *Place) {
			f.runs["iptables --version"], f.files["/proc/net/ip_tables_names"] = "iptables v1.8.9 (nf_tables)\n", "nat\n"
			f.runs["iptables-legacy-save -t filter"] = ":INPUT DROP [0:0]\n"
		},
		"a program on 127.0.0.1": func(f *fake, _ *Place) {
			f.listeners = append(f.listeners, Listener{"tcp", netip.MustParseAddrPort("127.0.0.1:7946"), "x"})
		},
	} {
		f, p := healthy()
		change(f, p)
		if list := Examine(t.Context(), f, p); Worst(list) != OK {
			for _, x := range list {
				if x.State != OK {
					t.Errorf("%s: %+v", name, x)
				}
			}
		}
	}
}

func TestSizes(t *testing.T) {
	to := netip.MustParseAddr("10.244.2.7")
	for name, c := range map[string]struct {
		f    fake
		want string
	}{
		"fine":  {fake{mtu: 1500, link: 1500}, "true true 1500"},
		"small": {fake{mtu: 1400, link: 1500}, "true false 1500"},
		"told":  {fake{mtu: 1400, link: 1500, told: true}, "true true 1400"},
		"known": {fake{mtu: 1400, link: 1400}, "true true 1400"},
		"deaf":  {fake{mtu: 1500, link: 1500, deaf: to}, "false false 1500"},
	} {
		small, full, size := Sizes(t.Context(), &c.f, to)
		if got := fmt.Sprint(small, full, size); got != c.want {
			t.Errorf("%s: %s", name, got)
		}
	}
}

// A packet that was not answered because time was up is not lost.
func TestSizesWithoutTime(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	f := &hasty{fake: fake{mtu: 1400, link: 1500}, cancel: cancel}
	if small, full, _ := Sizes(ctx, f, netip.MustParseAddr("10.244.2.7")); small || full {
		t.Error(small, full)
	}
}

// hasty has no more time after the first packet.
type hasty struct {
	fake
	cancel context.CancelFunc
}

func (h *hasty) Ping(ctx context.Context, to netip.Addr, size int) error {
	if size > smallPing {
		h.cancel()
	}
	return h.fake.Ping(ctx, to, size)
}

// A node that gossip does not hear is told of by gossip, not also by pings that cannot arrive.
func TestSilentNodesAreNotPinged(t *testing.T) {
	f, p := healthy()
	p.Peers[0].Alive, f.deaf = false, p.Peers[0].Gateway
	f.reach["10.244.2.1:7946"] = errors.New("i/o timeout")
	for _, x := range Examine(t.Context(), f, p) {
		if x.State != OK && x.Check != "gossip" {
			t.Errorf("also: %+v", x)
		}
	}
}

func TestMarks(t *testing.T) {
	if got := OK.Mark() + Warning.Mark() + Bad.Mark() + Unknown.Mark(); got != "✓!✗–" {
		t.Error(got)
	}
	if Worst([]Finding{{State: Warning}, {State: Bad}, {State: Unknown}}) != Bad || Worst([]Finding{{State: Unknown}, {State: Warning}}) != Warning {
		t.Error("the worst is another")
	}
}

func TestMentions(t *testing.T) {
	text := "-A FORWARD -d 10.244.2.3/32 -j DROP\n-A FORWARD -p udp -j DROP\n-A OUTPUT -p tcp -j REJECT\n-A INPUT -j DROP\n-A WP-REFUSE -d 10.244.2.3/32 -j DROP\n-A mine -s 10.244.2.0/24 -p tcp -j REJECT\n-A FORWARD ! -d 10.244.2.3/32 -j DROP\n-A FORWARD -d 10.244.9.9/32 -j DROP\n-A FORWARD -d 10.244.2.3/32 -j ACCEPT\n-A FORWARD -j WP-FORWARD\n-A FORWARD -s 10.244.2.3/32 -j DROP\n-A FORWARD -j DROP\n"
	got := ParseTables("iptables", text).Mentions([]netip.Addr{netip.MustParseAddr("10.244.2.3")})
	if want := "iptables -A FORWARD -d 10.244.2.3/32 -j DROP|iptables -A FORWARD -p udp -j DROP|iptables -A OUTPUT -p tcp -j REJECT|iptables -A mine -s 10.244.2.0/24 -p tcp -j REJECT"; strings.Join(got, "|") != want {
		t.Errorf("%q", got)
	}
}

func TestDrops(t *testing.T) {
	p := Packet{Protocol: "tcp", Port: 8080, From: netip.MustParseAddr("198.51.100.11"), To: netip.MustParseAddr("10.244.2.3")}
	for rule, want := range map[string]bool{
		"iptables -A FORWARD -d 10.244.2.3/32 -j DROP":                                             true,
		"iptables-legacy -A FORWARD -d 10.244.0.0/16 -i eth0 -p tcp -m tcp --dport 8080 -j REJECT": true,
		"-A FORWARD -p tcp -j DROP":                                                                true,
		"iptables -A FORWARD -s 10.244.2.3/32 -j DROP":                                             true, // answers
		"iptables -A FORWARD -s 10.244.2.3/32 -m conntrack --ctstate RELATED,ESTABLISHED -j DROP":  true,
		"iptables -A FORWARD -s 10.244.2.3/32 -m conntrack --ctstate NEW -j DROP":                  false,
		"iptables -A FORWARD -d 10.244.2.3/32 -p udp -j DROP":                                      false,
		"iptables -A FORWARD -d 10.244.2.3/32 -p tcp -m tcp --dport 22 -j DROP":                    false,
		"iptables -A FORWARD -d 10.244.2.4/32 -j DROP":                                             false,
		"iptables -A FORWARD -s 198.51.100.12/32 -d 10.244.2.3/32 -j DROP":                         false,
		"iptables -A FORWARD -d 10.244.2.3/32 -j ACCEPT":                                           false,
		"iptables -A FORWARD -d 10.244.2.3/32 -m limit --limit 5/min -j DROP":                      false, // not understood
		"nothing": false,
	} {
		if Drops(rule, p) != want {
			t.Errorf("%s: %v", rule, !want)
		}
	}
}

func FuzzTables(f *testing.F) {
	f.Add(noRules)
	f.Add(":a - [0:0]\n-A a -j a\n-A INPUT ! -s x -p -m --dport 7:x -g a\n-A INPUT -j INPUT\n")
	f.Fuzz(func(t *testing.T, text string) {
		tables := ParseTables("iptables", text)
		tables.Dropped("INPUT", Packet{Protocol: "tcp", Port: 7946, From: netip.MustParseAddr("192.0.2.1")})
		tables.Mentions([]netip.Addr{netip.MustParseAddr("192.0.2.1")})
		for _, c := range nftChains(text) {
			mentionsPort(c.body, port{"tcp", 7946, ""})
		}
	})
}
