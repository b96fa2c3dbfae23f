// Package iptables reads and writes the kernel's tables for proxy through the iptables programs of the machine, so that
// it works with whichever back end (nf_tables or legacy) Docker and the administrator use there.
//
// It knows nothing of Services: it carries text. It must not flush or delete anything by itself.
package iptables

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os/exec"
	"strings"
	"time"
)

// lockWait is how many seconds to wait for another program that holds the tables.
const lockWait = "10"

// Config says which programs to run.
type Config struct {
	// Prefix marks our chains.
	Prefix string
	// Suffix picks a back end, "-nft" or "-legacy"; empty is the machine's default.
	Suffix string
	// Names of the tables to read; none: filter and nat.
	Names []string
	// Enter is put before every command, to run it in another network namespace (nsenter --net=…).
	Enter []string
}

// Tables is the machine's iptables.
type Tables struct {
	cfg         Config
	wait        []string // for iptables-restore
	waitOne     []string // for iptables
	randomFully bool
	legacy      bool
}

// New finds the programs and what they can do. iptables-restore has --wait since 1.6.2 (older ones of Red Hat too),
// MASQUERADE has --random-fully since 1.6.2.
func New(ctx context.Context, cfg Config) (*Tables, error) {
	t := &Tables{cfg: cfg}
	for _, name := range []string{"iptables", "iptables-save", "iptables-restore"} {
		if _, err := exec.LookPath(t.program(name)); err != nil {
			return nil, fmt.Errorf("%s is not installed or not in PATH; install the package iptables", t.program(name))
		}
	}
	version, err := t.run(ctx, "", t.program("iptables"), "--version")
	if err != nil {
		return nil, err
	}
	var major, minor, patch int
	if _, err := fmt.Sscanf(strings.TrimPrefix(string(version), "iptables v"), "%d.%d.%d", &major, &minor, &patch); err != nil {
		return nil, fmt.Errorf("cannot tell the version of iptables from %q", bytes.TrimSpace(version))
	}
	recent := major > 1 || minor > 6 || minor == 6 && patch >= 2
	t.randomFully = recent
	// Since 1.8 the version says which it is, "(nf_tables)" or "(legacy)"; before there was only one.
	t.legacy = !bytes.Contains(version, []byte("nf_tables"))
	t.waitOne = []string{"-w", lockWait}
	// The nf_tables back end has no lock to wait for; it takes the option and ignores it.
	if help, _ := t.run(ctx, "", t.program("iptables-restore"), "--help"); recent || bytes.Contains(help, []byte("wait")) {
		t.wait = []string{"-w", lockWait}
	}
	return t, nil
}

// RandomFully tells whether MASQUERADE takes --random-fully.
func (t *Tables) RandomFully() bool { return t.randomFully }

// Legacy tells that the programs do not use nf_tables.
func (t *Tables) Legacy() bool { return t.legacy }

// program puts the back end after the word iptables: iptables-nft-save.
func (t *Tables) program(name string) string {
	return "iptables" + t.cfg.Suffix + strings.TrimPrefix(name, "iptables")
}

// Read returns table → chain → rules: our chains whole, of other chains the rules that jump to ours.
func (t *Tables) Read(ctx context.Context) (map[string]map[string]string, error) {
	out := map[string]map[string]string{}
	names := t.cfg.Names
	if len(names) == 0 {
		names = []string{"filter", "nat"}
	}
	for _, table := range names {
		text, err := t.run(ctx, "", t.program("iptables-save"), "-t", table)
		if err != nil {
			return nil, err
		}
		out[table] = t.parse(string(text))
	}
	return out, nil
}

// parse takes iptables-save's text of one table apart.
func (t *Tables) parse(text string) map[string]string {
	chains := map[string]*strings.Builder{}
	add := func(chain string) *strings.Builder {
		b := chains[chain]
		if b == nil {
			b = &strings.Builder{}
			chains[chain] = b
		}
		return b
	}
	for line := range strings.Lines(text) {
		switch {
		case strings.HasPrefix(line, ":"):
			if chain, _, _ := strings.Cut(line[1:], " "); strings.HasPrefix(chain, t.cfg.Prefix) {
				add(chain)
			}
		case strings.HasPrefix(line, "-A "):
			if chain, _, _ := strings.Cut(line[3:], " "); t.ours(chain, line) {
				add(chain).WriteString(line)
			}
		}
	}
	out := make(map[string]string, len(chains))
	for chain, b := range chains {
		out[chain] = b.String()
	}
	return out
}

func (t *Tables) ours(chain, line string) bool {
	return strings.HasPrefix(chain, t.cfg.Prefix) || strings.Contains(line, "-j "+t.cfg.Prefix)
}

// List returns the rules of one chain as Read does; a chain that is not there has none.
func (t *Tables) List(ctx context.Context, table, chain string) (string, error) {
	args := append([]string{}, t.waitOne...)
	text, err := t.run(ctx, "", t.program("iptables"), append(args, "-t", table, "-S", chain)...)
	var failed *exec.ExitError
	if errors.As(err, &failed) && failed.ExitCode() == 1 {
		return "", nil
	}
	if err != nil {
		return "", err
	}
	return t.parse(string(text))[chain], nil
}

// Restore applies the text without touching what it does not name.
func (t *Tables) Restore(ctx context.Context, text string) error {
	_, err := t.run(ctx, text, t.program("iptables-restore"), append([]string{"--noflush"}, t.wait...)...)
	return err
}

// Test checks the text without applying it.
func (t *Tables) Test(ctx context.Context, text string) error {
	_, err := t.run(ctx, text, t.program("iptables-restore"), append([]string{"--noflush", "--test"}, t.wait...)...)
	return err
}

func (t *Tables) run(ctx context.Context, input, name string, args ...string) ([]byte, error) {
	argv := append(append(append([]string{}, t.cfg.Enter...), name), args...)
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
	cmd.WaitDelay = time.Second
	if input != "" {
		cmd.Stdin = strings.NewReader(input)
	}
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		said := bytes.TrimSpace(stderr.Bytes())
		if len(said) > 500 {
			said = said[:500]
		}
		return nil, fmt.Errorf("%s %s: %w: %s", name, strings.Join(args, " "), err, said)
	}
	return stdout.Bytes(), nil
}
