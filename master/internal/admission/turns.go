package admission

import (
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/runtime"
)

// rounds that a request makes at most through all who may change it.
const rounds = 2

// turns remember, over the rounds of a request, who is to be asked again: those who wish so and after whom the object was
// changed. Policies have theirs and webhooks have theirs.
type turns struct {
	second, changed bool
	asked, again    map[any]bool
	// output is the object as the last of them left it.
	output runtime.Object
}

// begin starts a round. What others have changed since the last one concerns all who were asked in it.
func (t *turns) begin(a *attributes) {
	if t.second && len(t.asked) > 0 && t.output != a.object && !apiequality.Semantic.DeepEqual(t.output, a.object) {
		t.callAgain()
	}
}

func (t *turns) end(a *attributes) { t.second, t.output = true, a.object }

// has says whether it is somebody's turn: everybody's in the first round.
func (t *turns) has(who any) bool { return !t.second || t.again[who] }

// took says that somebody had a turn.
func (t *turns) took(who any, changed, reinvocable bool) {
	if changed {
		t.changed = true
		t.callAgain()
	}
	if reinvocable {
		if t.asked == nil {
			t.asked = map[any]bool{}
		}
		t.asked[who] = true
	}
}

func (t *turns) callAgain() {
	if t.again == nil {
		t.again = map[any]bool{}
	}
	for who := range t.asked {
		t.again[who] = true
	}
	clear(t.asked)
}
