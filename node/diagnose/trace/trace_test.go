package trace

import (
	"fmt"
	"testing"

	"k8s.io/client-go/kubernetes/fake"

	"github.com/whalepod/whalepod/node/diagnose"
)

func TestHealthy(t *testing.T) {
	want := `service default/web, tried from n1, n2

✓ Service     NodePort 10.254.7.9: http 80/TCP → http, node port 30080
✓ selector    app=web matches 2 pods
✓ pods        2 of 2 ready
✓ endpoints   10.244.1.5:8080 (web-1 on n1), 10.244.2.7:8080 (web-2 on n2)
✓ name        web.default.svc.cluster.local → 10.254.7.9
✓ rules       10.254.7.9 on 2 nodes: to 2 endpoints
✓ container   listens on 8080/TCP
✓ connection  all 2 endpoints answer directly, the slowest after 0.5 ms
✓ address     10.254.7.9:80 answers
✓ outside     node port 30080 answers

Nothing is broken on this way.
`
	w := healthy()
	if got := text(w.run(t, Options{})); got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
	w = healthy()
	r := w.run(t, Options{FromPod: "web-2", Port: "http"})
	if r.Broken != "" || fmt.Sprint(r.From) != "[pod web-2]" {
		t.Errorf("%+v", r)
	}
	inside := 0
	for _, q := range w.asked {
		if q.From != nil && *q.From == (diagnose.Pod{Namespace: "default", Name: "web-2", UID: "uid-web-2"}) && q.Names[0] == "web" {
			inside++
		}
	}
	if inside != 1 {
		t.Errorf("asked %d times from inside the pod", inside)
	}
}
func TestOptionsThatCannotBe(t *testing.T) {
	w := healthy()
	client := fake.NewClientset(w.nodes[0], w.pods[0])
	for want, o := range map[string]Options{
		`nodes "n9" not found`:    {Kind: "pod", Name: "web-1", FromNode: "n9"},
		`pods "nobody" not found`: {Kind: "pod", Name: "nobody"},
		`pods "gone" not found`:   {Kind: "pod", Name: "web-1", FromPod: "gone"},
	} {
		o.Namespace = "default"
		if _, err := Run(t.Context(), client, w.ask, o); err == nil || err.Error() != want {
			t.Errorf("%v, want %s", err, want)
		}
	}
}

func TestNearest(t *testing.T) {
	if nearest("wbe", []string{"mysql", "web"}) != "web" || nearest("x", []string{"mysql"}) != "" || levenshtein("", "abc") != 3 || levenshtein("kitten", "sitting") != 3 {
		t.Error("names are not told apart")
	}
}
