package policy

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"sync"
)

// fakeKernel takes rules and sets as the kernel would, and lets packets through them.
type fakeKernel struct {
	mu       sync.Mutex
	chains   map[string]string
	sets     map[string]KernelSet
	restores int
	messages int
	text     string // of the last restore
	fail     error
	// lazy: the first attempt to destroy a set finds it in use, as with nf_tables, which lets go of it later.
	lazy map[string]bool
	// between is called after every step.
	between func()
}

func newKernel() *fakeKernel {
	return &fakeKernel{chains: map[string]string{"FORWARD": "-A FORWARD -j SOMEBODYS\n", "INPUT": "", "SOMEBODYS": ""}, sets: map[string]KernelSet{}}
}

func (k *fakeKernel) Read(context.Context) (map[string]map[string]string, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	return map[string]map[string]string{Table: maps.Clone(k.chains)}, k.fail
}

func (k *fakeKernel) Restore(_ context.Context, text string) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.restores++
	k.text = text
	if k.fail != nil {
		return k.fail
	}
	next := maps.Clone(k.chains)
	for line := range strings.Lines(text) {
		line = strings.TrimSuffix(line, "\n")
		word, rest, _ := strings.Cut(line, " ")
		chain, _, _ := strings.Cut(rest, " ")
		rule := "-A " + rest + "\n"
		switch {
		case line == "*"+Table || line == "COMMIT":
		case line[0] == ':':
			next[word[1:]] = ""
		case word == "-X":
			delete(next, rest)
		case word == "-A":
			next[chain] += rule
		case word == "-I":
			next[chain] = rule + next[chain]
		case word == "-D" && strings.Contains(next[chain], rule):
			next[chain] = strings.Replace(next[chain], rule, "", 1)
		default:
			return fmt.Errorf("line %q", line)
		}
	}
	for chain, rules := range next {
		for line := range strings.Lines(rules) {
			f := strings.Fields(line)
			if to := f[len(f)-1]; strings.HasPrefix(to, Prefix) {
				if _, ok := next[to]; !ok {
					return fmt.Errorf("%s leads to %s, which is not there", chain, to)
				}
			}
			if i := slices.Index(f, "--match-set"); i >= 0 {
				if _, ok := k.sets[f[i+1]]; !ok {
					return fmt.Errorf("Set %s doesn't exist", f[i+1])
				}
			}
		}
	}
	k.chains = next
	k.step()
	return nil
}

func (k *fakeKernel) step() {
	if k.between != nil {
		k.between()
	}
}

func (k *fakeKernel) List() (map[string]KernelSet, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	return maps.Clone(k.sets), k.fail
}

func (k *fakeKernel) Create(name string, t SetType) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	if len(name) > 31 {
		return fmt.Errorf("the name %s is too long", name)
	}
	if _, ok := k.sets[name]; !ok {
		k.sets[name] = KernelSet{Type: t}
	}
	k.messages++
	k.step()
	return nil
}

func (k *fakeKernel) Destroy(name string) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	for chain, rules := range k.chains {
		if strings.Contains(rules, " "+name+" ") {
			return fmt.Errorf("the set %s is in use by %s", name, chain)
		}
	}
	if _, ok := k.sets[name]; ok && k.lazy != nil {
		if k.lazy[name] = !k.lazy[name]; k.lazy[name] {
			return fmt.Errorf("remove the set %s: it is in use by a kernel component", name)
		}
	}
	delete(k.sets, name)
	k.messages++
	k.step()
	return nil
}

func (k *fakeKernel) Add(name string, t SetType, entries []Entry) error {
	return k.alter(name, t, entries, func(have []Entry, e Entry) []Entry {
		if slices.Contains(have, e) {
			return have
		}
		return append(slices.Clone(have), e)
	})
}

func (k *fakeKernel) Delete(name string, t SetType, entries []Entry) error {
	return k.alter(name, t, entries, func(have []Entry, e Entry) []Entry {
		return slices.DeleteFunc(slices.Clone(have), func(x Entry) bool { return x == e })
	})
}

func (k *fakeKernel) alter(name string, t SetType, entries []Entry, f func([]Entry, Entry) []Entry) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	s, ok := k.sets[name]
	if !ok || s.Type != t {
		return fmt.Errorf("no set %s of type %s", name, t)
	}
	for _, e := range entries {
		if !e.Net.IsValid() || e.Net.Addr().IsUnspecified() && e.Net.Bits() == 32 || e.Net.Bits() == 0 || (t == Ports) != (e.Port != 0) || t != Networks && e.Net.Bits() != 32 {
			return fmt.Errorf("%s takes no %v", t, e)
		}
		s.Entries = f(s.Entries, e)
		k.messages++
	}
	k.sets[name] = s
	k.step()
	return nil
}

// packet is the first of a connection.
type packet struct {
	src, dst netip.Addr
	proto    string
	port     uint16
	known    bool // of a connection that is there
}

// passes tells whether the rules let a packet through a hook.
func (k *fakeKernel) passes(hook string, p packet) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.through(hook, p)
}

// through is passes for between.
func (k *fakeKernel) through(hook string, p packet) bool { return k.walk(hook, p) != "DROP" }

func (k *fakeKernel) walk(chain string, p packet) string {
	for line := range strings.Lines(k.chains[chain]) {
		target, jump := k.match(line, p)
		switch {
		case target == "":
		case target == "DROP" || target == "RETURN":
			return target
		default:
			if k.walk(target, p) == "DROP" {
				return "DROP"
			}
			if !jump {
				return "RETURN" // to where the chain was jumped at that was left
			}
		}
	}
	return "RETURN"
}

// match returns where a rule leads a packet, and whether it comes back from there; nowhere if it does not match.
func (k *fakeKernel) match(line string, p packet) (target string, jump bool) {
	before, after, _ := strings.Cut(line, `--comment "`)
	if after != "" {
		_, after, _ = strings.Cut(after, `"`)
		before += after
	}
	f := strings.Fields(before)[2:]
	for len(f) > 0 {
		ok, n := true, 2
		switch f[0] {
		case "-s":
			ok = netip.MustParsePrefix(f[1]).Contains(p.src)
		case "-d":
			ok = netip.MustParsePrefix(f[1]).Contains(p.dst)
		case "-p":
			ok = p.proto == f[1]
		case "-m":
			n = 2
			if f[1] == "bpf" {
				n = 1
			}
		case "--ctstate":
			ok = p.known
		case "--match-set":
			ok, n = k.inSet(f[1], f[2], p), 3
		case "bpf":
			ok = p.src == p.dst
			for n = 1; f[n] != "-j"; n++ {
			}
		case "--dport", "--dports":
			lo, hi, ranged := strings.Cut(f[1], ":")
			if !ranged {
				hi = lo
			}
			a, _ := strconv.Atoi(lo)
			b, _ := strconv.Atoi(hi)
			ok = int(p.port) >= a && int(p.port) <= b
		case "-j", "-g":
			return f[1], f[0] == "-j"
		default:
			panic(errors.New("unknown match " + f[0]))
		}
		if !ok {
			return "", false
		}
		f = f[n:]
	}
	return "", false
}

func (k *fakeKernel) inSet(name, flags string, p packet) bool {
	s, ok := k.sets[name]
	if !ok {
		panic("no set " + name)
	}
	end := map[string]netip.Addr{"src": p.src, "dst": p.dst}
	first, _, two := strings.Cut(flags, ",")
	if two != (s.Type == Ports) {
		panic(name + " is asked for " + flags)
	}
	number := map[string]uint8{"tcp": 6, "udp": 17, "sctp": 132}[p.proto]
	return slices.ContainsFunc(s.Entries, func(e Entry) bool {
		switch {
		case !e.Net.Contains(end[first]):
			return false
		case s.Type == Ports:
			return e.Protocol == number && e.Port == p.port
		}
		return true
	})
}
