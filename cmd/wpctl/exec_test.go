package main

import (
	"strings"
	"testing"

	"k8s.io/cli-runtime/pkg/genericiooptions"
)

func TestExecAsOldPostsWriteIt(t *testing.T) {
	for typed, want := range map[string]string{
		"exec -it web bash":                   "exec -it web -- bash",
		"exec web -c app -it /bin/bash":       "exec web -c app -it -- /bin/bash",
		"exec web -capp ls -alG":              "exec web -capp -- ls -alG",
		"-n shop exec --container=app web ls": "exec -n shop --container=app web -- ls",
		"exec --namespace shop web ls -n":     "exec --namespace shop web -- ls -n",
		"exec -it web -- bash -c x":           "exec -it web -- bash -c x",
		"exec web":                            "exec web",
		"exec -f pod.yml ls":                  "exec -f pod.yml ls",
		"exec --nosuch web ls":                "exec --nosuch web -- ls",
		"logs web app":                        "logs web app",
		"get pods exec":                       "get pods exec",
		"":                                    "",
	} {
		args := strings.Fields(typed)
		root := newCommand(append([]string{"wpctl"}, args...), genericiooptions.NewTestIOStreamsDiscard())
		if got := strings.Join(withDashes(root, args), " "); got != want {
			t.Errorf("%s: %s, want %s", typed, got, want)
		}
	}
}
