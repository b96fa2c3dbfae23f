package proxy

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
)

// fakeTables interprets restore texts as the kernel would.
type fakeTables struct {
	mu     sync.Mutex
	tables map[string]map[string]string
	texts  []string
	fail   int // so many Restores fail
	reads  int
}

func newFake() *fakeTables {
	return &fakeTables{tables: map[string]map[string]string{
		"nat":    {"PREROUTING": "", "OUTPUT": "", "POSTROUTING": "", "INPUT": ""},
		"filter": {"INPUT": "", "FORWARD": "", "OUTPUT": ""},
	}}
}

func (f *fakeTables) Read(context.Context) (map[string]map[string]string, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.reads++
	out := map[string]map[string]string{}
	for table, chains := range f.tables {
		out[table] = map[string]string{}
		for chain, rules := range chains {
			out[table][chain] = rules
		}
	}
	return out, nil
}

func (f *fakeTables) List(_ context.Context, table, chain string) (string, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.tables[table][chain], nil
}

func (f *fakeTables) Restore(_ context.Context, text string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.texts = append(f.texts, text)
	if f.fail > 0 {
		f.fail--
		return errors.New("iptables-restore: line 7 failed")
	}
	var table map[string]string
	for line := range strings.Lines(text) {
		line = strings.TrimSuffix(line, "\n")
		word, rest, _ := strings.Cut(line, " ")
		chain, _, _ := strings.Cut(rest, " ")
		switch {
		case line == "COMMIT":
		case line[0] == '*':
			table = f.tables[line[1:]]
		case line[0] == ':':
			table[word[1:]] = ""
		case word == "-X":
			for c, rules := range table {
				if strings.Contains(rules, "-j "+rest+"\n") {
					return fmt.Errorf("%s is used by %s", rest, c)
				}
			}
			delete(table, rest)
		default:
			if err := f.rule(table, word, chain, rest); err != nil {
				return err
			}
		}
	}
	return nil
}

func (f *fakeTables) rule(table map[string]string, word, chain, rest string) error {
	now, ok := table[chain]
	_, target, _ := strings.Cut(rest, "-j ")
	_, exists := table[strings.Fields(target)[0]]
	if !ok || strings.HasPrefix(target, Prefix) && !exists {
		return fmt.Errorf("no such chain: %s", rest)
	}
	line := "-A " + rest + "\n"
	switch word {
	case "-A":
		table[chain] = now + line
	case "-I":
		table[chain] = line + now
	case "-D":
		if !strings.Contains(now, line) {
			return fmt.Errorf("no such rule: %s", rest)
		}
		table[chain] = strings.Replace(now, line, "", 1)
	}
	return nil
}

func (f *fakeTables) last() string {
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(f.texts) == 0 {
		return ""
	}
	return f.texts[len(f.texts)-1]
}

func (f *fakeTables) count() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return len(f.texts)
}

// text is all tables as Rules would write them, without jumps.
func (f *fakeTables) text(cfg Config) string {
	f.mu.Lock()
	defer f.mu.Unlock()
	have := map[chainKey]string{}
	for table, chains := range f.tables {
		for chain, rules := range chains {
			have[chainKey{table, chain}] = rules
		}
	}
	all := func(yield func(chainKey) bool) {
		for k := range have {
			if !yield(k) {
				return
			}
		}
	}
	return restoreText(map[chainKey]string{}, have, all)
}
