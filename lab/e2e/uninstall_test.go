//go:build e2e

package e2e

import (
	"fmt"
	"regexp"
	"strings"
	"testing"

	"github.com/whalepod/whalepod/lab"
)

// counters of packets and bytes, and the times of iptables-save, are no rules.
var counters = regexp.MustCompile(`(?m)\[\d+:\d+\]$|^#.*\n`)

// kernelState is what an agent changes on a node: rules, links, routes, neighbours'
// rules, listening sockets, mounts.
func kernelState(t *testing.T, n *lab.Node) string {
	t.Helper()
	var b strings.Builder
	for _, args := range [][]string{
		{"iptables-save"},
		{"sh", "-c", "nft list tables | grep whalepod || true"},
		{"ip", "-br", "link"},
		{"ip", "-4", "-br", "address"},
		{"ip", "route", "show", "table", "all"},
		{"ip", "rule"},
		{"ls", "/run"},
	} {
		out, err := output(n.Command(t.Context(), args[0], args[1:]...))
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(&b, "--- %s\n%s", strings.Join(args, " "), counters.ReplaceAllString(out, ""))
	}
	return b.String()
}

// TestUninstall lets a node leave and join again: what was there before the agent
// came is there after it has gone, and nothing else.
func TestUninstall(t *testing.T) {
	n := cluster.Node(3)
	afterwards(t, n)
	leave := func() {
		must(t, n.UninstallAgent(t.Context()))
		kubectl(t, "delete", "node", n.Name)
		if left := dockerPS(t, n); len(left) > 0 {
			t.Errorf("containers stay: %v", left)
		}
		if exists(n.Dir() + "/agent") {
			t.Error("its directory stays")
		}
	}
	leave()
	// Somebody else's rules, in chains that we use too.
	foreign := [][]string{
		{"-N", "SOMEBODY"},
		{"-A", "SOMEBODY", "-s", "192.0.2.0/24", "-m", "comment", "--comment", "somebody's", "-j", "DROP"},
		{"-I", "INPUT", "-j", "SOMEBODY"},
		{"-A", "FORWARD", "-d", "192.0.2.7/32", "-j", "REJECT"},
		{"-t", "nat", "-A", "POSTROUTING", "-s", "192.0.2.0/24", "-j", "MASQUERADE"},
		{"-t", "nat", "-A", "PREROUTING", "-p", "tcp", "--dport", "30999", "-j", "REDIRECT", "--to-ports", "999"},
	}
	for _, rule := range foreign {
		if _, err := output(n.Command(t.Context(), "iptables", append([]string{"-w"}, rule...)...)); err != nil {
			t.Fatal(err)
		}
	}
	before := kernelState(t, n)

	must(t, n.StartAgent(t.Context()))
	awaitNode(t, n)
	w := startWeb(t, 30099)
	own := w.on(t, n)
	t.Logf("%s runs on %s", own.Name, n.Name)
	if !strings.Contains(kernelState(t, n), "SOMEBODY") {
		t.Error("somebody's rules went when the agent came")
	}
	kubectl(t, "drain", n.Name, "--timeout", settle.String())
	w.servesWithout(t, n)
	leave()
	if after := kernelState(t, n); after != before {
		t.Errorf("before:\n%s\nafter:\n%s", before, after)
	}

	for i := len(foreign) - 1; i >= 0; i-- {
		rule := strings.Join(foreign[i], " ")
		rule = strings.NewReplacer("-A ", "-D ", "-I ", "-D ", "-N ", "-X ").Replace(rule)
		if _, err := output(n.Command(t.Context(), "iptables", append([]string{"-w"}, strings.Fields(rule)...)...)); err != nil {
			t.Errorf("%v", err)
		}
	}
	must(t, n.StartAgent(t.Context()))
	awaitNode(t, n)
}
