package registry

import (
	"testing"
)

// FuzzContinue: tokens that clients send back, changed or made up.
func FuzzContinue(f *testing.F) {
	for _, t := range []continueToken{{ResourceVersion: 7, StartKey: "web", Namespace: "default"}, {ResourceVersion: -1, StartKey: "x"}, {}} {
		f.Add(t.String())
	}
	f.Add("bnVsbA")
	f.Add("====")
	f.Fuzz(func(t *testing.T, text string) {
		token, err := parseContinue(text)
		if err != nil {
			return
		}
		if again, err := parseContinue(token.String()); err != nil || again != token {
			t.Errorf("%q: %+v, then %+v, %v", text, token, again, err)
		}
	})
}
