package lab

import (
	"context"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func config(t *testing.T) Config {
	return Config{Dir: t.TempDir(), Cache: t.TempDir(), Bin: "/opt/bin"}
}

func TestConfig(t *testing.T) {
	tests := map[string]struct {
		change func(*Config)
		fails  string
	}{
		"defaults":     {change: func(*Config) {}},
		"many nodes":   {func(c *Config) { c.Nodes = 21 }, "1 to 20 nodes"},
		"no number":    {func(c *Config) { c.Nodes = -1 }, "1 to 20 nodes"},
		"prefix":       {func(c *Config) { c.Prefix = "a/b" }, "prefix"},
		"subnet":       {func(c *Config) { c.Subnet = netip.MustParsePrefix("192.0.2.0/28") }, "/26"},
		"many links":   {func(c *Config) { c.Links = 3 }, "1 to 2 links"},
		"empty link":   {func(c *Config) { c.Nodes, c.Links = 1, 2 }, "1 to 1 links"},
		"one link":     {func(c *Config) { c.Subnet2 = netip.MustParsePrefix("198.51.0.0/16") }, "overlap"},
		"images":       {func(c *Config) { c.Images = "quay" }, "auto, lab or hub"},
		"no directory": {func(c *Config) { c.Dir = "" }, "directory"},
		"long path":    {func(c *Config) { c.Dir = "/" + strings.Repeat("x", 100) }, "too long"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			c := config(t)
			tt.change(&c)
			c, err := c.withDefaults()
			if tt.fails == "" {
				if err != nil || c.Nodes != 3 || c.labName() != "wp-lab" || c.nodeName(2) != "wp-node2" || c.address(12).String() != "198.51.100.12" {
					t.Errorf("%+v, %v", c, err)
				}
				return
			}
			if err == nil || !strings.Contains(err.Error(), tt.fails) {
				t.Errorf("error %v, want one with %q", err, tt.fails)
			}
		})
	}
}

// Nodes are dealt out to the links in order, and one that moved is found there by the next process.
func TestLinks(t *testing.T) {
	cfg := config(t)
	for nodes, want := range map[int]string{2: "12", 3: "112", 4: "1122", 5: "11122"} {
		cfg.Nodes, cfg.Links = nodes, 2
		l, err := New(cfg)
		if err != nil {
			t.Fatal(err)
		}
		got := ""
		for _, n := range l.Nodes() {
			got += strconv.Itoa(n.Link())
			if !l.cfg.network(n.Link()).Contains(n.Address) {
				t.Errorf("%s on link %d", n.Address, n.Link())
			}
		}
		if got != want {
			t.Errorf("%d nodes on links %s, want %s", nodes, got, want)
		}
	}
	l, err := New(config(t))
	if err != nil {
		t.Fatal(err)
	}
	err = l.record(func(s *state) { s.Prefix, s.Nodes, s.Links, s.Moved = "wp-", 3, 1, map[string]int{"wp-node2": 2} })
	if err != nil {
		t.Fatal(err)
	}
	again, err := New(l.Config())
	if err != nil || again.Node(2).Address.String() != "203.0.113.12" || again.Node(3).Link() != 1 {
		t.Errorf("%v, %+v", err, again.nodes)
	}
}

func TestParseStat(t *testing.T) {
	tests := map[string]struct {
		line  string
		want  stat
		fails bool
	}{
		"plain":          {line: "12 (sh) S 7 12 12 0 -1 0 0 0 0 0 0 0 0 0 20 0 1 0 4711 0 0", want: stat{'S', 7, 4711}},
		"brackets":       {line: "12 (a) Z 1 (b)) R 8 12 12 0 -1 0 0 0 0 0 0 0 0 0 20 0 1 0 42 0 0", want: stat{'R', 8, 42}},
		"cut":            {line: "12 (sh) S 7 12", fails: true},
		"no stat at all": {line: "", fails: true},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			got, err := parseStat([]byte(tt.line))
			if (err != nil) != tt.fails || got != tt.want {
				t.Errorf("parseStat = %+v, %v", got, err)
			}
		})
	}
}

// A process is told from a later one with its number.
func TestProcess(t *testing.T) {
	cmd := exec.Command("sleep", "60")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	p, err := identify(cmd.Process.Pid)
	if err != nil || !p.alive() {
		t.Fatalf("%+v, %v", p, err)
	}
	other := process{PID: p.PID, Start: p.Start - 1}
	if err := other.kill(t.Context()); err != nil || !p.alive() {
		t.Fatalf("killed a process that is not the one recorded: %v", err)
	}
	if err := p.stop(t.Context(), 10*time.Second); err != nil || p.alive() {
		t.Errorf("still alive: %v", err)
	}
	_ = cmd.Wait() // killed, which is the point
	if (process{}).alive() || (process{PID: 1}).alive() {
		t.Error("the first process of the machine is not ours to end")
	}
}

func TestParseJoin(t *testing.T) {
	got, err := parseJoin("wp-agent join --master 198.51.100.11:6444 --token abcdef.0123456789abcdef --ca-hash sha256:12ab\n")
	want := joinLine{"198.51.100.11:6444", "abcdef.0123456789abcdef", "sha256:12ab"}
	if err != nil || got != want {
		t.Errorf("parseJoin = %+v, %v", got, err)
	}
	if _, err := parseJoin("abcdef.0123456789abcdef"); err == nil {
		t.Error("a token alone is no join command")
	}
}

func TestCommandLines(t *testing.T) {
	cfg := config(t)
	cfg.Nodes = 2
	l, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	dir := l.Config().Dir
	want := []string{"/opt/bin/wp-master", "--data-dir", dir + "/node1/master", "--advertise-address", "198.51.100.11",
		"--bind", "0.0.0.0", "--extra-sans", "127.0.0.1,localhost"}
	if d := cmp.Diff(want, l.masterArgs()); d != "" {
		t.Error(d)
	}
	common := []string{"--node-ip", "198.51.100.12", "--data-dir", dir + "/node2/agent",
		"--docker-host", "unix:///run/docker.sock", "--eviction-hard", evictionHard, "--image-gc-high-threshold", "100"}
	want = append([]string{"/opt/bin/wp-agent", "join", "--master", "m:6444", "--token", "t", "--ca-hash", "h", "--node-name", "wp-node2"}, common...)
	if d := cmp.Diff(want, l.Node(2).agentArgs(joinLine{"m:6444", "t", "h"})); d != "" {
		t.Error(d)
	}
	want = append([]string{"/opt/bin/wp-agent", "run"}, common...)
	if d := cmp.Diff(want, l.Node(2).agentArgs(joinLine{})); d != "" {
		t.Error(d)
	}
}

func TestWithServer(t *testing.T) {
	in := "clusters:\n- cluster:\n    certificate-authority-data: eA==\n    server: https://198.51.100.11:6443\n  name: whalepod\n"
	got, err := withServer([]byte(in), "https://127.0.0.1:6443")
	if want := strings.Replace(in, "198.51.100.11", "127.0.0.1", 1); err != nil || string(got) != want {
		t.Errorf("%s, %v", got, err)
	}
	if _, err := withServer([]byte("clusters: []\n"), "https://127.0.0.1:6443"); err == nil {
		t.Error("a kubeconfig without a server was taken")
	}
}

// State that is written is found again; a damaged file counts as none.
func TestState(t *testing.T) {
	cfg := config(t)
	l, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	if err := l.record(func(s *state) { s.Nodes, s.Prefix, s.Processes["node1"] = 5, "wp-", process{1234, 5} }); err != nil {
		t.Fatal(err)
	}
	again, err := New(cfg)
	if err != nil || len(again.Nodes()) != 5 || again.process("node1") != (process{1234, 5}) {
		t.Errorf("%d nodes, %+v, %v", len(again.Nodes()), again.state, err)
	}
	if err := os.WriteFile(l.path("state.json"), []byte("{"), 0o644); err != nil {
		t.Fatal(err)
	}
	if again, err = New(cfg); err != nil || len(again.Nodes()) != 3 {
		t.Errorf("after damage: %d nodes, %v", len(again.Nodes()), err)
	}
}

func TestParseForward(t *testing.T) {
	tests := map[string]bool{
		"127.0.0.1:30080=198.51.100.11:30080": true,
		"[::1]:1=198.51.100.11:30080":         true,
		"0.0.0.0:30080=198.51.100.11:30080":   false,
		"198.51.100.1:1=198.51.100.11:30080":  false,
		"127.0.0.1:30080=node1:30080":         false,
		"127.0.0.1:30080":                     false,
	}
	for in, ok := range tests {
		if _, err := ParseForward(in); (err == nil) != ok {
			t.Errorf("ParseForward(%q): %v", in, err)
		}
	}
}

// A client that has sent everything still gets the answer.
func TestForward(t *testing.T) {
	server, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer server.Close()
	go func() {
		for {
			c, err := server.Accept()
			if err != nil {
				return
			}
			data, _ := io.ReadAll(c)
			_, _ = c.Write([]byte(strings.ToUpper(string(data))))
			c.Close()
		}
	}()
	free, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	listen := free.Addr().String()
	free.Close()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() {
		done <- RunForwards(ctx, []Forward{{Listen: listen, To: server.Addr().String()}}, new(net.Dialer).DialContext)
	}()
	var conn net.Conn
	for conn == nil {
		conn, _ = net.Dial("tcp", listen) // until it listens
	}
	if _, err := conn.Write([]byte("whale")); err != nil {
		t.Fatal(err)
	}
	if err := conn.(*net.TCPConn).CloseWrite(); err != nil {
		t.Fatal(err)
	}
	if got, err := io.ReadAll(conn); err != nil || string(got) != "WHALE" {
		t.Errorf("got %q, %v", got, err)
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

func TestMissingPackages(t *testing.T) {
	none := func(string) bool { return false }
	tests := map[string]struct {
		manager string
		tests   bool
		has     func(string) bool
		want    []string
		fails   bool
	}{
		"all there": {"apt-get", true, func(string) bool { return true }, nil, false},
		"debian":    {"apt-get", false, none, []string{"docker.io", "iptables", "iproute2", "util-linux", "mmdebstrap", "docker-registry"}, false},
		"tests":     {"apt-get", true, func(p string) bool { return p != "gcc" && p != "ip" }, []string{"iproute2", "gcc", "libc6-dev"}, false},
		"fedora":    {"dnf", false, none, []string{"moby-engine", "iptables-nft", "iproute", "util-linux"}, false},
		"one":       {"apt-get", true, func(p string) bool { return p != "ip" }, []string{"iproute2"}, false},
		"neither":   {"", false, none, nil, true},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			got, err := missingPackages(tt.manager, tt.tests, tt.has)
			if (err != nil) != tt.fails {
				t.Fatal(err)
			}
			if !tt.fails && !cmp.Equal(tt.want, got) {
				t.Error(cmp.Diff(tt.want, got))
			}
		})
	}
}
