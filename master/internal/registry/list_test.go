package registry_test

import (
	"context"
	"encoding/base64"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"

	"github.com/whalepod/whalepod/api/resource"
	"github.com/whalepod/whalepod/api/server"
)

func names(items []resource.Object) (out string) {
	for i, o := range items {
		if i > 0 {
			out += " "
		}
		out += o.GetName()
	}
	return out
}

// labelled makes ConfigMaps c0, c1 … labelled by their parity.
func labelled(e *env, n int) {
	e.Helper()
	for i := range n {
		c := configMap(fmt.Sprintf("c%d", i))
		c.Labels = map[string]string{"odd": fmt.Sprint(i%2 == 1)}
		mustCreate(e, c)
	}
}

func TestListPages(t *testing.T) {
	e := start(t)
	labelled(e, 7)
	mustCreate(e, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "zoo"}})
	other := configMap("c9")
	other.Namespace = "zoo"
	mustCreate(e, other)
	list := func(q server.ListQuery) *server.ListResult {
		t.Helper()
		out, err := e.List(e.ctx, res("configmaps"), q)
		if err != nil {
			t.Fatal(err)
		}
		return out
	}
	first := list(server.ListQuery{Namespace: "default", Limit: 3})
	if names(first.Items) != "c0 c1 c2" || *first.RemainingItemCount != 4 || first.Continue == "" {
		t.Fatalf("%s, %v left", names(first.Items), first.RemainingItemCount)
	}
	// What happens between pages is not seen.
	mustCreate(e, configMap("c3x"))
	if _, err := e.delete(configMap("c4"), server.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	second := list(server.ListQuery{Namespace: "default", Limit: 3, Continue: first.Continue})
	if names(second.Items) != "c3 c4 c5" || *second.RemainingItemCount != 1 || second.ResourceVersion != first.ResourceVersion {
		t.Errorf("%s, %d left, at %s", names(second.Items), *second.RemainingItemCount, second.ResourceVersion)
	}
	third := list(server.ListQuery{Namespace: "default", Limit: 3, Continue: second.Continue})
	if names(third.Items) != "c6" || third.Continue != "" || third.RemainingItemCount != nil {
		t.Errorf("%s, more: %q", names(third.Items), third.Continue)
	}
	// Selected: no count, and no page that is empty.
	odd := labels.SelectorFromSet(labels.Set{"odd": "true"})
	page := list(server.ListQuery{Namespace: "default", Limit: 2, Labels: odd})
	if names(page.Items) != "c1 c3" || page.RemainingItemCount != nil {
		t.Errorf("%s, count %v", names(page.Items), page.RemainingItemCount)
	}
	page = list(server.ListQuery{Namespace: "default", Limit: 2, Labels: odd, Continue: page.Continue})
	if names(page.Items) != "c5" || page.Continue != "" {
		t.Errorf("%s, more: %q", names(page.Items), page.Continue)
	}
	if all := list(server.ListQuery{}); names(all.Items) != "c0 c1 c2 c3 c3x c5 c6 c9" {
		t.Errorf("all namespaces: %s", names(all.Items))
	}
	one := list(server.ListQuery{Namespace: "default", Fields: fields.OneTermEqualSelector("metadata.name", "c5")})
	if names(one.Items) != "c5" {
		t.Errorf("by name: %s", names(one.Items))
	}
	if none := list(server.ListQuery{Namespace: "zoo", Fields: fields.OneTermEqualSelector("metadata.name", "c5")}); len(none.Items) != 0 {
		t.Errorf("by name, elsewhere: %s", names(none.Items))
	}
	for _, bad := range []string{"x", "!", base64.RawURLEncoding.EncodeToString([]byte(`{"v":"meta.k8s.io/v1"}`))} {
		_, err := e.List(e.ctx, res("configmaps"), server.ListQuery{Continue: bad})
		wantErr(t, err, metav1.StatusReasonBadRequest, "continue key is not valid")
	}
}

func TestListPodsOfNode(t *testing.T) {
	e := start(t)
	e.bound("b1")
	e.bound("b2")
	mustCreate(e, pod("free"))
	for node, want := range map[string]string{"n1": "b1 b2", "": "free", "n9": ""} {
		out, err := e.List(e.ctx, res("pods"), server.ListQuery{Fields: fields.OneTermEqualSelector("spec.nodeName", node)})
		if err != nil || names(out.Items) != want {
			t.Errorf("node %q: %s %v", node, names(out.Items), err)
		}
		// A namespace or a page takes another way to the same answer.
		out, err = e.List(e.ctx, res("pods"), server.ListQuery{Namespace: "default", Limit: 10, Fields: fields.OneTermEqualSelector("spec.nodeName", node)})
		if err != nil || names(out.Items) != want {
			t.Errorf("node %q in default: %s %v", node, names(out.Items), err)
		}
	}
}

func TestListRevisions(t *testing.T) {
	e := start(t)
	labelled(e, 3)
	at := e.revision()
	mustCreate(e, configMap("later"))
	rv := fmt.Sprint(at)
	for _, c := range []struct {
		q    server.ListQuery
		want string
	}{
		{server.ListQuery{}, "c0 c1 c2 later"},
		{server.ListQuery{ResourceVersion: "0"}, "c0 c1 c2 later"},
		{server.ListQuery{ResourceVersion: rv}, "c0 c1 c2 later"},
		{server.ListQuery{ResourceVersion: rv, ResourceVersionMatch: metav1.ResourceVersionMatchNotOlderThan}, "c0 c1 c2 later"},
		{server.ListQuery{ResourceVersion: rv, ResourceVersionMatch: metav1.ResourceVersionMatchExact}, "c0 c1 c2"},
		{server.ListQuery{ResourceVersion: rv, Limit: 9}, "c0 c1 c2"},
		{server.ListQuery{ResourceVersion: "0", Limit: 9}, "c0 c1 c2 later"},
	} {
		out, err := e.List(e.ctx, res("configmaps"), c.q)
		if err != nil || names(out.Items) != c.want {
			t.Errorf("%+v: %v %v", c.q, out, err)
		}
	}
	future := fmt.Sprint(at + 1000)
	for _, match := range []metav1.ResourceVersionMatch{"", metav1.ResourceVersionMatchExact, metav1.ResourceVersionMatchNotOlderThan} {
		_, err := e.List(e.ctx, res("configmaps"), server.ListQuery{ResourceVersion: future, ResourceVersionMatch: match})
		wantErr(t, err, metav1.StatusReasonTimeout, "Too large resource version: "+future)
		if !apierrors.HasStatusCause(err, metav1.CauseTypeResourceVersionTooLarge) {
			t.Errorf("%q: client-go looks for a cause that is not there: %v", match, err)
		}
	}
	_, err := e.Get(e.ctx, res("configmaps"), "default", "c0", future)
	wantErr(t, err, metav1.StatusReasonTimeout, "Too large resource version")
	for _, bad := range []string{"x", "-1", "1.5"} {
		_, err = e.List(e.ctx, res("configmaps"), server.ListQuery{ResourceVersion: bad})
		wantErr(t, err, metav1.StatusReasonBadRequest, "invalid resource version")
		_, err = e.Watch(e.ctx, res("configmaps"), server.WatchQuery{ResourceVersion: bad})
		wantErr(t, err, metav1.StatusReasonBadRequest, "invalid resource version")
	}
}

// A page asked for too late: 410 with a token that goes on from the present state.
func TestListContinueExpired(t *testing.T) {
	e := open(t, options{history: 16})
	labelled(e, 6)
	first, err := e.List(e.ctx, res("configmaps"), server.ListQuery{Namespace: "default", Limit: 2})
	if err != nil {
		t.Fatal(err)
	}
	churn := func() {
		c := configMap("c0")
		for i := range 40 {
			mustChange(e, "", c, func(c *corev1.ConfigMap) { c.Data = map[string]string{"i": fmt.Sprint(i)} })
		}
	}
	churn()
	_, err = e.List(e.ctx, res("configmaps"), server.ListQuery{Namespace: "default", Limit: 2, Continue: first.Continue})
	wantErr(t, err, metav1.StatusReasonExpired, "The provided continue parameter is too old")
	status := err.(*apierrors.StatusError).ErrStatus
	if status.Code != 410 || status.ListMeta.Continue == "" {
		t.Fatalf("%+v", status)
	}
	next, err := e.List(e.ctx, res("configmaps"), server.ListQuery{Namespace: "default", Limit: 2, Continue: status.ListMeta.Continue})
	if err != nil || names(next.Items) != "c2 c3" || next.ResourceVersion == first.ResourceVersion {
		t.Fatal(next, err)
	}
	last, err := e.List(e.ctx, res("configmaps"), server.ListQuery{Namespace: "default", Limit: 9, Continue: next.Continue})
	if err != nil || names(last.Items) != "c4 c5" || last.ResourceVersion != next.ResourceVersion {
		t.Fatal(last, err)
	}
	_, err = e.List(e.ctx, res("configmaps"), server.ListQuery{ResourceVersion: first.ResourceVersion, ResourceVersionMatch: metav1.ResourceVersionMatchExact})
	wantErr(t, err, metav1.StatusReasonExpired, "too old")

	_, err = e.Watch(e.ctx, res("configmaps"), server.WatchQuery{ResourceVersion: first.ResourceVersion})
	wantErr(t, err, metav1.StatusReasonExpired, "too old")
	w, err := e.Watch(e.ctx, res("configmaps"), server.WatchQuery{ResourceVersion: fmt.Sprint(e.revision())})
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	churn() // nobody reads the watch meanwhile
	_, err = w.Next(e.ctx)
	wantErr(t, err, metav1.StatusReasonExpired, "too old")
}

func TestWatchSelectors(t *testing.T) {
	e := start(t)
	red := configMap("a")
	red.Labels = map[string]string{"color": "red"}
	red = mustCreate(e, red)
	w, err := e.Watch(e.ctx, res("configmaps"), server.WatchQuery{Namespace: "default", Labels: labels.SelectorFromSet(labels.Set{"color": "red"})})
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	if items, end := w.Initial(); names(items) != "a" || end {
		t.Errorf("initial %s, end %v", names(items), end)
	}
	paint := func(name, color string) *corev1.ConfigMap {
		return mustChange(e, "", configMap(name), func(c *corev1.ConfigMap) { c.Labels = map[string]string{"color": color} })
	}
	mustCreate(e, configMap("b"))
	paint("a", "blue")
	left := e.revision()
	paint("b", "red")
	mustChange(e, "", configMap("b"), func(c *corev1.ConfigMap) { c.Data = map[string]string{"k": "v"} })
	paint("a", "green")
	if _, err := e.delete(configMap("b"), server.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	if _, err := e.delete(configMap("a"), server.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	got := next(t, w, 4)
	want := []string{"DELETED a red", "ADDED b red", "MODIFIED b red", "DELETED b red"}
	for i, ev := range got {
		if text := ev.Type + " " + ev.Object.GetName() + " " + ev.Object.GetLabels()["color"]; text != want[i] {
			t.Errorf("event %d is %s, want %s", i, text, want[i])
		}
	}
	if rv := got[0].Object.GetResourceVersion(); rv != fmt.Sprint(left) {
		t.Errorf("the object that left carries resourceVersion %s, want %d", rv, left)
	}
	if rv := got[3].Object.GetResourceVersion(); rv <= got[2].Object.GetResourceVersion() {
		t.Errorf("a deletion carries resourceVersion %s", rv)
	}
	if red.Labels["color"] != "red" {
		t.Error("the watch changed a shared object")
	}
}

// next reads n events.
func next(t *testing.T, w server.Watch, n int) (out []server.WatchEvent) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	for len(out) < n {
		events, err := w.Next(ctx)
		if err != nil {
			t.Fatalf("after %d of %d events: %v", len(out), n, err)
		}
		out = append(out, events...)
	}
	if len(out) > n {
		t.Fatalf("%d events, want %d: %v", len(out), n, out)
	}
	return out
}

func TestWatchBeginnings(t *testing.T) {
	yes, no := true, false
	for _, c := range []struct {
		q       server.WatchQuery
		past    bool // from the revision before c2
		initial string
		end     bool
		then    string
	}{
		{q: server.WatchQuery{}, initial: "c0 c1 c2", then: "new"},
		{q: server.WatchQuery{ResourceVersion: "0"}, initial: "c0 c1 c2", then: "new"},
		{q: server.WatchQuery{}, past: true, then: "c2 new"},
		{q: server.WatchQuery{SendInitialEvents: &no}, then: "new"},
		{q: server.WatchQuery{SendInitialEvents: &no}, past: true, then: "c2 new"},
		{q: server.WatchQuery{SendInitialEvents: &yes}, initial: "c0 c1 c2", end: true, then: "new"},
		{q: server.WatchQuery{SendInitialEvents: &yes}, past: true, initial: "c0 c1 c2", end: true, then: "new"},
		{q: server.WatchQuery{SendInitialEvents: &yes, Fields: fields.OneTermEqualSelector("metadata.name", "c1")}, initial: "c1", end: true},
		{q: server.WatchQuery{SendInitialEvents: &yes, Fields: fields.OneTermEqualSelector("metadata.name", "x")}, end: true},
	} {
		synctest.Test(t, func(t *testing.T) {
			e := start(t)
			labelled(e, 2)
			if c.past {
				c.q.ResourceVersion = fmt.Sprint(e.revision())
			}
			mustCreate(e, configMap("c2"))
			w, err := e.Watch(e.ctx, res("configmaps"), c.q)
			if err != nil {
				t.Fatal(err)
			}
			defer w.Close()
			items, end := w.Initial()
			if names(items) != c.initial || end != c.end {
				t.Errorf("%+v: initial %q, end %v", c.q, names(items), end)
			}
			mustCreate(e, configMap("new"))
			mustCreate(e, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "unseen"}})
			ctx, cancel := context.WithTimeout(e.ctx, time.Second)
			defer cancel()
			var seen []resource.Object
			for {
				events, err := w.Next(ctx)
				if err != nil {
					break
				}
				for _, ev := range events {
					seen = append(seen, ev.Object)
				}
			}
			if names(seen) != c.then {
				t.Errorf("%+v: then %q, want %q", c.q, names(seen), c.then)
			}
			if w.ResourceVersion() != fmt.Sprint(e.revision()) {
				t.Errorf("%+v: a bookmark would say %s, the revision is %d", c.q, w.ResourceVersion(), e.revision())
			}
			_, err = e.Watch(e.ctx, res("configmaps"), server.WatchQuery{ResourceVersion: fmt.Sprint(e.revision() + 50)})
			wantErr(t, err, metav1.StatusReasonTimeout, "Too large resource version")
		})
	}
}
