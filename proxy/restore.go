package proxy

import (
	"iter"
	"slices"
	"strings"
)

// restoreText is the input of one `iptables-restore --noflush` that brings the given chains from have to want: new and
// changed chains are written anew, those no longer wanted are deleted, and a jump of ours that is missing, doubled or
// worded otherwise is put right. It is empty when nothing differs.
func restoreText(have, want map[chainKey]string, chains iter.Seq[chainKey]) string {
	byTable := map[string][]chainKey{}
	for k := range chains {
		if strings.HasPrefix(k.chain, Prefix) {
			h, had := have[k]
			w, wanted := want[k]
			if had != wanted || h != w {
				byTable[k.table] = append(byTable[k.table], k)
			}
		}
	}
	var b strings.Builder
	for _, table := range []string{tableFilter, tableNat} {
		writeTable(&b, table, have, want, byTable[table])
	}
	return b.String()
}

func writeTable(b *strings.Builder, table string, have, want map[chainKey]string, chains []chainKey) {
	lines := jumpLines(table, have, want)
	if len(chains) == 0 && len(lines) == 0 {
		return
	}
	slices.SortFunc(chains, func(x, y chainKey) int { return strings.Compare(x.chain, y.chain) })
	b.WriteString("*" + table + "\n")
	for _, k := range chains {
		b.WriteString(":" + k.chain + " - [0:0]\n")
	}
	for _, k := range chains {
		b.WriteString(want[k])
	}
	for _, l := range lines {
		b.WriteString(l)
	}
	for _, k := range chains {
		if _, wanted := want[k]; !wanted {
			b.WriteString("-X " + k.chain + "\n")
		}
	}
	b.WriteString("COMMIT\n")
}

// jumpLines puts our jumps first in the tables' own chains, each once, and takes those away that have nothing to lead to.
func jumpLines(table string, have, want map[chainKey]string) []string {
	var out []string
	for _, j := range jumps {
		if j.table != table {
			continue
		}
		line := "-A " + j.rule() + "\n"
		now := have[chainKey{table, j.chain}]
		if now == line && hasChain(want, j) {
			continue
		}
		for old := range strings.Lines(now) {
			out = append(out, "-D"+strings.TrimPrefix(old, "-A"))
		}
		if hasChain(want, j) {
			out = append(out, "-I "+j.rule()+"\n")
		}
	}
	return out
}

func hasChain(want map[chainKey]string, j jump) bool {
	_, ok := want[chainKey{j.table, j.target}]
	return ok
}

// removalText deletes everything of ours that the tables hold.
func removalText(have map[chainKey]string) string {
	var b strings.Builder
	for _, table := range []string{tableFilter, tableNat} {
		var own []string
		var out []string
		for k, rules := range have {
			if k.table != table {
				continue
			}
			if strings.HasPrefix(k.chain, Prefix) {
				own = append(own, k.chain)
				continue
			}
			for line := range strings.Lines(rules) {
				out = append(out, "-D"+strings.TrimPrefix(line, "-A"))
			}
		}
		if len(own) == 0 && len(out) == 0 {
			continue
		}
		slices.Sort(own)
		slices.Sort(out)
		b.WriteString("*" + table + "\n")
		for _, c := range own {
			b.WriteString(":" + c + " - [0:0]\n")
		}
		for _, line := range out {
			b.WriteString(line)
		}
		for _, c := range own {
			b.WriteString("-X " + c + "\n")
		}
		b.WriteString("COMMIT\n")
	}
	return b.String()
}
