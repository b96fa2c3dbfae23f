package policy

import (
	"iter"
	"slices"
	"strings"
)

// jump is a rule of ours in a chain that is not ours.
type jump struct{ chain, target string }

var jumps = []jump{{"FORWARD", chainForward}, {"INPUT", chainInput}}

func (j jump) rule() string {
	return j.chain + " " + comment("whalepod: network policies") + " -j " + j.target
}

// restoreText is the input of one `iptables-restore --noflush` that brings the given chains from have to want, and the jumps to them
// where there are any: without isolated pods nothing of ours is in the table. It is empty when nothing differs.
func restoreText(have, want map[string]string, chains iter.Seq[string]) string {
	var differ []string
	for c := range chains {
		h, had := have[c]
		w, wanted := want[c]
		if strings.HasPrefix(c, Prefix) && (had != wanted || h != w) {
			differ = append(differ, c)
		}
	}
	slices.Sort(differ)
	lines := jumpLines(have, want)
	if len(differ) == 0 && len(lines) == 0 {
		return ""
	}
	var b strings.Builder
	b.WriteString("*" + Table + "\n")
	for _, c := range differ {
		b.WriteString(":" + c + " - [0:0]\n")
	}
	for _, c := range differ {
		b.WriteString(want[c])
	}
	for _, l := range lines {
		b.WriteString(l)
	}
	for _, c := range differ {
		if _, wanted := want[c]; !wanted {
			b.WriteString("-X " + c + "\n")
		}
	}
	b.WriteString("COMMIT\n")
	return b.String()
}

func jumpLines(have, want map[string]string) (out []string) {
	for _, j := range jumps {
		line := ""
		if _, ok := want[j.target]; ok {
			line = "-A " + j.rule() + "\n"
		}
		if have[j.chain] == line {
			continue
		}
		for old := range strings.Lines(have[j.chain]) {
			out = append(out, "-D"+strings.TrimPrefix(old, "-A"))
		}
		if line != "" {
			out = append(out, "-I"+strings.TrimPrefix(line, "-A"))
		}
	}
	return out
}

// noteJumps writes down what the table's own chains hold of ours after restoreText.
func noteJumps(have, want map[string]string) {
	for _, j := range jumps {
		delete(have, j.chain)
		if _, ok := want[j.target]; ok {
			have[j.chain] = "-A " + j.rule() + "\n"
		}
	}
}
