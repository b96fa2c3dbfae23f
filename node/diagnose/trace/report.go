package trace

import (
	"fmt"
	"io"
	"strings"

	"github.com/whalepod/whalepod/node/diagnose/doctor"
)

// Report is how every step went.
type Report struct {
	// Target and From, for people: what was traced and from where.
	Target string   `json:"target"`
	From   []string `json:"from,omitempty"`
	Steps  []Step   `json:"steps"`
	// Broken is the name of the step that is the cause, empty when nothing is broken; Fix what to do about it.
	Broken string `json:"broken,omitempty"`
	Fix    string `json:"fix,omitempty"`

	lagging bool // rules that are not those of the slices may only be late
	cause   cause
}

// Step of the way.
type Step struct {
	Name  string       `json:"name"`
	State doctor.State `json:"state"`
	What  string       `json:"what"`
	// Details of what is not as it should be.
	Details []string `json:"details,omitempty"`
	Fix     string   `json:"fix,omitempty"`
	// Follows: it cannot be otherwise, after what is broken before it.
	Follows bool `json:"follows,omitempty"`
}

// cause orders steps by which of several broken ones is the cause of the others: what is first breaks what comes later.
type cause int

const (
	noCause cause = iota
	causeService
	causeSelector
	causePods
	causeTargetPort
	causeSlices
	causeContainer // nobody listens
	causeAgent
	causeNames
	causeRules
	causeEndpoint // somebody listens, but cannot be reached
	causeSize     // it can, but not with large packets
	causePolicy
	causeAddress
	causeOutside
)

// add a step; the earliest cause among broken ones is the report's.
func (r *Report) add(s Step, c cause) {
	r.Steps = append(r.Steps, s)
	if s.State == doctor.Bad && (r.cause == noCause || c < r.cause) {
		r.cause, r.Broken, r.Fix = c, s.Name, s.Fix
	}
}

// nameWidth aligns what is said after the names of steps.
const nameWidth = 11

// Print it as a tree.
func (r *Report) Print(w io.Writer) {
	fmt.Fprint(w, r.Target)
	if len(r.From) > 0 {
		fmt.Fprintf(w, ", tried from %s", strings.Join(r.From, ", "))
	}
	fmt.Fprint(w, "\n\n")
	unsure, warned := false, false
	for _, s := range r.Steps {
		if s.Follows {
			fmt.Fprintf(w, "%s %-*s %s (follows from %s)\n", s.State.Mark(), nameWidth, s.Name, s.What, r.Broken)
			continue
		}
		fmt.Fprintf(w, "%s %-*s %s\n", s.State.Mark(), nameWidth, s.Name, s.What)
		for _, d := range s.Details {
			fmt.Fprintf(w, "  %-*s %s\n", nameWidth, "", d)
		}
		unsure, warned = unsure || s.State == doctor.Unknown, warned || s.State == doctor.Warning
		if s.Fix != "" && s.Fix != r.Fix { // what is broken beside the cause has one of its own
			fmt.Fprintf(w, "  %-*s → %s\n", nameWidth, "", s.Fix)
		}
	}
	switch {
	case r.Broken == "" && warned:
		fmt.Fprintln(w, "\nNothing that could be tried is broken, but look at what is marked with !.")
	case r.Broken == "" && unsure:
		fmt.Fprintln(w, "\nNothing that could be tried is broken.")
	case r.Broken == "":
		fmt.Fprintln(w, "\nNothing is broken on this way.")
	default:
		fmt.Fprintf(w, "\nBroken: %s. What to do: %s\n", r.Broken, r.Fix)
	}
}
