package server

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/uuid"
	"k8s.io/client-go/rest"

	"github.com/whalepod/whalepod/api/resource"
)

// memBackend is the smallest backend that keeps the contract: a map, one revision counter, and an event log.
type memBackend struct {
	t    *resource.Table
	mu   sync.Mutex
	rev  int64
	objs map[string]resource.Object // by resource key, namespace and name
	log  []memEvent
	wake chan struct{}
	// conflicts makes the next so many updates find that somebody was quicker.
	conflicts int
	// compacted makes watches of older revisions fail.
	compacted int64
	acted     []string
	deleted   []DeleteOptions
}

type memEvent struct {
	rev      int64
	res      string
	typ      string
	old, obj resource.Object
}

func newMemBackend(t *resource.Table) *memBackend {
	return &memBackend{t: t, rev: 1, objs: map[string]resource.Object{}, wake: make(chan struct{})}
}

func memKey(r *resource.Resource, ns, name string) string { return r.Key() + "/" + ns + "/" + name }

func (b *memBackend) Ready() error { return nil }

func (b *memBackend) Get(_ context.Context, r *resource.Resource, ns, name, _ string) (resource.Object, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if obj := b.objs[memKey(r, ns, name)]; obj != nil {
		return obj, nil
	}
	return nil, apierrors.NewNotFound(r.GroupResource(), name)
}

func matches(r *resource.Resource, obj resource.Object, ns string, l labels.Selector, f fields.Selector) bool {
	if ns != "" && obj.GetNamespace() != ns {
		return false
	}
	if f == nil || f.Empty() {
		return l == nil || l.Matches(labels.Set(obj.GetLabels()))
	}
	set := fields.Set{"metadata.name": obj.GetName(), "metadata.namespace": obj.GetNamespace()}
	if r.Rules().Fields != nil {
		for k, v := range r.Rules().Fields(obj) {
			set[k] = v
		}
	}
	return (l == nil || l.Matches(labels.Set(obj.GetLabels()))) && f.Matches(set)
}

func (b *memBackend) List(_ context.Context, r *resource.Resource, q ListQuery) (*ListResult, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	var keys []string
	for k := range b.objs {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	res := &ListResult{ResourceVersion: strconv.FormatInt(b.rev, 10)}
	for _, k := range keys {
		obj := b.objs[k]
		if k <= q.Continue || memKey(r, obj.GetNamespace(), obj.GetName()) != k || !matches(r, obj, q.Namespace, q.Labels, q.Fields) {
			continue
		}
		if q.Limit > 0 && int64(len(res.Items)) == q.Limit {
			last := res.Items[len(res.Items)-1]
			res.Continue = memKey(r, last.GetNamespace(), last.GetName())
			break
		}
		res.Items = append(res.Items, obj)
	}
	return res, nil
}

func (b *memBackend) put(r *resource.Resource, typ string, old, obj resource.Object) {
	b.rev++
	obj.SetResourceVersion(strconv.FormatInt(b.rev, 10))
	k := memKey(r, obj.GetNamespace(), obj.GetName())
	if typ == "DELETED" {
		delete(b.objs, k)
	} else {
		b.objs[k] = obj
	}
	b.log = append(b.log, memEvent{b.rev, r.Key(), typ, old, obj})
	close(b.wake)
	b.wake = make(chan struct{})
}

func (b *memBackend) Create(_ context.Context, r *resource.Resource, ns string, obj resource.Object, o WriteOptions) (resource.Object, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if obj.GetName() == "" && obj.GetGenerateName() != "" {
		obj.SetName(obj.GetGenerateName() + "x" + strconv.FormatInt(b.rev, 36))
	}
	if b.objs[memKey(r, ns, obj.GetName())] != nil {
		return nil, apierrors.NewAlreadyExists(r.GroupResource(), obj.GetName())
	}
	if p := r.Rules().PrepareCreate; p != nil {
		p(obj)
	}
	if v := r.Rules().Validate; v != nil {
		if errs := v(context.Background(), obj); len(errs) > 0 {
			return nil, apierrors.NewInvalid(r.GroupVersionKind().GroupKind(), obj.GetName(), errs)
		}
	}
	obj.SetUID(uuid.NewUUID())
	obj.SetCreationTimestamp(metav1.Now())
	if o.DryRun {
		return obj, nil
	}
	b.put(r, "ADDED", nil, obj)
	return obj, nil
}

func (b *memBackend) Update(ctx context.Context, r *resource.Resource, sub, ns, name string, o UpdateOptions,
	change func(resource.Object) (resource.Object, error)) (resource.Object, bool, error) {
	for {
		cur, err := b.Get(ctx, r, ns, name, "")
		if err != nil && !(apierrors.IsNotFound(err) && o.CreateOnUpdate) {
			return nil, false, err
		}
		var arg resource.Object
		if cur != nil {
			arg = cur.DeepCopyObject().(resource.Object)
		}
		next, err := change(arg)
		if err != nil {
			return nil, false, err
		}
		if cur == nil {
			obj, err := b.Create(ctx, r, ns, next, o.WriteOptions)
			return obj, true, err
		}
		if next.GetResourceVersion() != "" && next.GetResourceVersion() != cur.GetResourceVersion() {
			return nil, false, apierrors.NewConflict(r.GroupResource(), name, errors.New("the object has been modified; please apply your changes to the latest version and try again"))
		}
		next.SetUID(cur.GetUID())
		next.SetCreationTimestamp(cur.GetCreationTimestamp())
		prepare := r.Rules().PrepareUpdate
		if sub == "status" {
			prepare = r.Rules().PrepareStatus
		}
		if prepare != nil {
			prepare(next, cur)
		}
		b.mu.Lock()
		if b.conflicts > 0 || b.objs[memKey(r, ns, name)] != cur {
			b.conflicts--
			b.mu.Unlock()
			continue
		}
		if !o.DryRun {
			b.put(r, "MODIFIED", cur, next)
		}
		b.mu.Unlock()
		return next, false, nil
	}
}

func (b *memBackend) Delete(_ context.Context, r *resource.Resource, ns, name string, o DeleteOptions) (resource.Object, bool, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.deleted = append(b.deleted, o)
	obj := b.objs[memKey(r, ns, name)]
	if obj == nil {
		return nil, false, apierrors.NewNotFound(r.GroupResource(), name)
	}
	if o.UID != nil && *o.UID != obj.GetUID() {
		return nil, false, apierrors.NewConflict(r.GroupResource(), name, fmt.Errorf("Precondition failed: UID in precondition: %v, UID in object meta: %v", *o.UID, obj.GetUID()))
	}
	if !o.DryRun {
		b.put(r, "DELETED", obj, obj.DeepCopyObject().(resource.Object))
	}
	return obj, true, nil
}

func (b *memBackend) DeleteCollection(ctx context.Context, r *resource.Resource, q ListQuery, o DeleteOptions) ([]resource.Object, error) {
	res, err := b.List(ctx, r, q)
	if err != nil {
		return nil, err
	}
	for _, obj := range res.Items {
		if _, _, err := b.Delete(ctx, r, obj.GetNamespace(), obj.GetName(), o); err != nil {
			return nil, err
		}
	}
	return res.Items, nil
}

func (b *memBackend) Act(_ context.Context, r *resource.Resource, sub, ns, name string, body runtime.Object, _ WriteOptions) (runtime.Object, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.acted = append(b.acted, fmt.Sprintf("%s/%s/%s/%s %T", r.Key(), ns, name, sub, body))
	if sub == "token" {
		return body, nil
	}
	return &metav1.Status{Status: metav1.StatusSuccess}, nil
}

// memWatch is a cursor over the log.
type memWatch struct {
	b       *memBackend
	r       *resource.Resource
	q       WatchQuery
	initial []resource.Object
	end     bool
	at      int64
}

func (b *memBackend) Watch(ctx context.Context, r *resource.Resource, q WatchQuery) (Watch, error) {
	w := &memWatch{b: b, r: r, q: q}
	want := q.SendInitialEvents != nil && *q.SendInitialEvents
	if want || q.SendInitialEvents == nil && (q.ResourceVersion == "" || q.ResourceVersion == "0") {
		res, err := b.List(ctx, r, ListQuery{Namespace: q.Namespace, Labels: q.Labels, Fields: q.Fields})
		if err != nil {
			return nil, err
		}
		w.initial, w.end = res.Items, want
		w.at, _ = strconv.ParseInt(res.ResourceVersion, 10, 64)
		return w, nil
	}
	var err error
	if w.at, err = strconv.ParseInt(q.ResourceVersion, 10, 64); err != nil {
		return nil, apierrors.NewBadRequest("Invalid value: \"" + q.ResourceVersion + "\": invalid resourceVersion")
	}
	return w, nil
}

func (w *memWatch) Initial() ([]resource.Object, bool) { return w.initial, w.end }
func (w *memWatch) ResourceVersion() string            { return strconv.FormatInt(w.at, 10) }
func (w *memWatch) Close()                             {}

func (w *memWatch) Next(ctx context.Context) ([]WatchEvent, error) {
	for {
		w.b.mu.Lock()
		wake := w.b.wake
		var out []WatchEvent
		if w.at < w.b.compacted {
			w.b.mu.Unlock()
			return nil, apierrors.NewResourceExpired(fmt.Sprintf("too old resource version: %d (%d)", w.at, w.b.compacted))
		}
		// From the end: the log is long in benchmarks.
		i := len(w.b.log)
		for i > 0 && w.b.log[i-1].rev > w.at {
			i--
		}
		for _, e := range w.b.log[i:] {
			if e.res == w.r.Key() && matches(w.r, e.obj, w.q.Namespace, w.q.Labels, w.q.Fields) {
				out = append(out, WatchEvent{Type: e.typ, Object: e.obj})
			}
		}
		w.at = w.b.rev
		w.b.mu.Unlock()
		if len(out) > 0 {
			return out, nil
		}
		select {
		case <-wake:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// testAuth knows users by the name after "Bearer ".
type testAuth struct{}

func (testAuth) Authenticate(req *http.Request) (User, error) {
	switch token := req.Header.Get("Authorization"); token {
	case "Bearer admin":
		return User{Name: "admin", Groups: []string{groupMasters, "system:authenticated"}}, nil
	case "Bearer reader":
		return User{Name: "reader", Groups: []string{"system:authenticated"}}, nil
	}
	return User{}, errors.New("who?")
}

// testConnector answers with what it was asked for.
type testConnector struct{}

func (testConnector) Connect(w http.ResponseWriter, req *http.Request, r *resource.Resource, sub, ns, name, path string) error {
	if name == "missing" {
		return apierrors.NewNotFound(r.GroupResource(), name)
	}
	fmt.Fprintf(w, "%s %s %s %s/%s %s", req.Method, r.Name, sub, ns, name, path)
	return nil
}

var testTable = sync.OnceValue(resource.NewTable)

type testServer struct {
	*httptest.Server
	api     *Server
	backend *memBackend
}

func newTestServer(t testing.TB, change ...func(*Config)) *testServer {
	t.Helper()
	table := testTable()
	b := newMemBackend(table)
	c := Config{Table: table, Backend: b, Connector: testConnector{}, Auth: testAuth{}, Version: "v1.36.3+whalepod-test",
		Authorize: func(_ context.Context, u User, a Attributes) (bool, string) {
			self := a.Verb == "create" && strings.HasPrefix(a.Resource, "selfsubject")
			offer := strings.HasPrefix(a.Path, "/api") || strings.HasPrefix(a.Path, "/openapi")
			return self || a.Verb == "get" && (a.Resource != "" || offer), ""
		}}
	for _, f := range change {
		f(&c)
	}
	api := New(c)
	srv := httptest.NewUnstartedServer(api)
	srv.EnableHTTP2 = true
	srv.StartTLS()
	t.Cleanup(func() { srv.CloseClientConnections(); srv.Close() })
	return &testServer{srv, api, b}
}

func (s *testServer) config() *rest.Config {
	return &rest.Config{Host: s.URL, BearerToken: "admin", TLSClientConfig: rest.TLSClientConfig{Insecure: true}, QPS: -1}
}

// client is a plain HTTP client that does not decompress by itself.
func (s *testServer) client() *http.Client {
	return &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}, ForceAttemptHTTP2: true, DisableCompression: true,
		DialContext: (&net.Dialer{}).DialContext}}
}

func testPod(name string) *corev1.Pod {
	return &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: "default", Labels: map[string]string{"app": "web"}},
		Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "c", Image: "nginx"}}}}
}

func ptr[T any](v T) *T { return &v }
