//go:build e2e

package iptables_test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/whalepod/whalepod/proxy/netnstest"
	"github.com/whalepod/whalepod/proxy/nft"
)

func TestE2EGoldenFilesAreAcceptedAndReadBackTheSame(t *testing.T) {
	eachBackend(t, func(t *testing.T, b backend) {
		if b.native {
			return // they are not its
		}
		files, err := filepath.Glob("../testdata/*.rules")
		if err != nil || len(files) < 10 {
			t.Fatal(files, err)
		}
		for _, file := range files {
			netnstest.Make(t, nodeNS)
			text, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			tables := newTables(t, b.suffix)
			if err := tables.Test(t.Context(), string(text)); err != nil {
				t.Errorf("%s: %v", file, err)
			}
			if err := tables.Restore(t.Context(), string(text)); err != nil {
				t.Errorf("%s: %v", file, err)
			}
			back, err := tables.Read(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			for table, chains := range wanted(string(text)) {
				if d := cmp.Diff(chains, back[table]); d != "" {
					t.Errorf("%s, table %s: what was read back differs (- written, + read):\n%s", file, table, d)
				}
			}
			for _, chain := range []string{"WP-SERVICES", "PREROUTING", "WP-NONE"} {
				if got, err := tables.List(t.Context(), "nat", chain); err != nil || got != back["nat"][chain] {
					t.Errorf("list %s: %q %v, want %q", chain, got, err, back["nat"][chain])
				}
			}
		}
	})
}

// wanted takes the text of a golden file apart.
func wanted(text string) map[string]map[string]string {
	out := map[string]map[string]string{}
	var chains map[string]string
	for line := range strings.Lines(text) {
		word, rest, _ := strings.Cut(strings.TrimSpace(line), " ")
		chain, _, _ := strings.Cut(rest, " ")
		switch {
		case line[0] == '*':
			chains = map[string]string{}
			out[word[1:]] = chains
		case line[0] == ':':
			chains[word[1:]] = ""
		case word == "-A" || word == "-I":
			chains[chain] += "-A " + rest + "\n"
		}
	}
	return out
}

func TestE2ERemovalLeavesForeignRulesAsTheyWere(t *testing.T) {
	eachBackend(t, func(t *testing.T, b backend) {
		netnstest.Make(t, nodeNS)
		foreign := "*nat\n:DOCKER - [0:0]\n-A PREROUTING -m addrtype --dst-type LOCAL -j DOCKER\n-A DOCKER -i docker0 -j RETURN\n-A POSTROUTING -s 172.17.0.0/16 ! -o docker0 -j MASQUERADE\nCOMMIT\n" +
			"*filter\n:FORWARD DROP [0:0]\n:DOCKER-USER - [0:0]\n-A FORWARD -j DOCKER-USER\n-A INPUT -p tcp -m tcp --dport 22 -j ACCEPT\nCOMMIT\n*mangle\n-A PREROUTING -p tcp -j MARK --set-xmark 0x7/0xffffffff\nCOMMIT\n"
		cmd := exec.Command("nsenter", "--net=/run/netns/"+nodeNS, "iptables"+b.suffix+"-restore")
		cmd.Stdin = strings.NewReader(foreign)
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%v %s", err, out)
		}
		before := save(t, b)
		r := start(t, b)
		r.apply(t, func() {
			for i := range 50 {
				name := fmt.Sprint("s", i)
				r.SetService(svc(name, fmt.Sprintf("10.254.1.%d", i+1)))
				r.SetSlice(eps(name, "TCP", 80, fmt.Sprintf("10.244.3.%d", i+2)))
			}
			r.Synced()
		})
		if got := withoutOurs(save(t, b)); got != before {
			t.Errorf("foreign rules while we run: %s", cmp.Diff(before, got))
		}
		// Somebody flushes; the next repair puts ours back.
		with := save(t, b)
		if b.native {
			netnstest.RunIn(t, nodeNS, "nft", "flush", "chain", "ip", nft.Table, "services")
			r.apply(t, r.Repair)
			if got := save(t, b); got != with {
				t.Errorf("after the repair of a flushed chain: %s", cmp.Diff(with, got))
			}
			netnstest.RunIn(t, nodeNS, "nft", "flush", "map", "ip", nft.Table, "services")
			r.apply(t, r.Repair)
			if got := save(t, b); got != with {
				t.Errorf("after the repair of a flushed map: %s", cmp.Diff(with, got))
			}
			netnstest.RunIn(t, nodeNS, "nft", "delete", "table", "ip", nft.Table)
		}
		if b.native {
			netnstest.RunIn(t, nodeNS, "iptables"+b.suffix, "-F", "WP-FORWARD")
			r.apply(t, r.Repair)
			if got := save(t, b); got != with {
				t.Errorf("after the repair of a table that was deleted: %s", cmp.Diff(with, got))
			}
		}
		netnstest.RunIn(t, nodeNS, "iptables"+b.suffix, "-t", "nat", "-F", "PREROUTING")
		netnstest.RunIn(t, nodeNS, "iptables"+b.suffix, "-t", "nat", "-A", "PREROUTING", "-m", "addrtype", "--dst-type", "LOCAL", "-j", "DOCKER")
		netnstest.RunIn(t, nodeNS, "iptables"+b.suffix, "-F", "WP-FORWARD")
		r.apply(t, r.Repair)
		if got := save(t, b); got != with {
			t.Errorf("after the repair: %s", cmp.Diff(with, got))
		}
		r.stop()
		if err := r.Remove(t.Context()); err != nil {
			t.Fatal(err)
		}
		if after := save(t, b); after != before {
			t.Errorf("after removal: %s", cmp.Diff(before, after))
		}
	})
}

// save reads all tables without what changes by itself.
func save(t *testing.T, b backend) string {
	t.Helper()
	var out []string
	for line := range strings.Lines(netnstest.RunIn(t, nodeNS, "iptables"+b.suffix+"-save")) {
		if !strings.HasPrefix(line, "#") {
			before, _, _ := strings.Cut(line, " [")
			out = append(out, strings.TrimSpace(before))
		}
	}
	if tables := netnstest.RunIn(t, nodeNS, "nft", "list", "tables"); strings.Contains(tables, "ip "+nft.Table) {
		// The order of elements is the kernel's, and comes after each line's comment.
		lines := strings.Split(netnstest.RunIn(t, nodeNS, "nft", "list", "table", "ip", nft.Table), "\n")
		for i := range lines {
			lines[i] = "WP-NFT " + strings.Trim(strings.TrimSuffix(strings.TrimSpace(strings.TrimPrefix(strings.TrimSpace(lines[i]), "elements = {")), "}"), " ,")
		}
		lines = slices.DeleteFunc(lines, func(l string) bool { return strings.Contains(l, " expires ") }) // clients that are remembered
		slices.Sort(lines)
		out = append(out, lines...)
	}
	return strings.Join(out, "\n")
}

func withoutOurs(text string) string {
	var out []string
	for _, line := range strings.Split(text, "\n") {
		if !strings.Contains(line, "WP-") {
			out = append(out, line)
		}
	}
	return strings.Join(out, "\n")
}
