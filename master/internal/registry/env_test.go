package registry_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/whalepod/whalepod/api/resource"
	"github.com/whalepod/whalepod/api/server"
	"github.com/whalepod/whalepod/master/internal/registry"
	"github.com/whalepod/whalepod/master/internal/store/bolt"
)

var table = sync.OnceValue(resource.NewTable)

// env is a registry on a real store with the namespace "default".
type env struct {
	testing.TB
	*registry.Registry
	ctx  context.Context
	path string
	stop func()
}

type options struct {
	cidr    string
	history int
	ports   int32
	path    string
}

func open(t testing.TB, o options) *env {
	t.Helper()
	if o.cidr == "" {
		o.cidr = "10.254.0.0/16"
	}
	if o.ports == 0 {
		o.ports = 2768
	}
	if o.path == "" {
		o.path = filepath.Join(t.TempDir(), "store.db")
	}
	s, err := bolt.Open(bolt.Config{Path: o.path, Schema: registry.Schema(table()), Log: slog.New(slog.DiscardHandler), History: o.history})
	if err != nil {
		t.Fatal(err)
	}
	r := registry.New(s, registry.Config{
		Table: table(), ServiceCIDR: netip.MustParsePrefix(o.cidr), NodePortFirst: 30000, NodePortLast: 30000 + o.ports - 1,
		NotReadySeconds: 10, UnreachableSeconds: 10, Logger: slog.New(slog.DiscardHandler),
	})
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	for _, run := range []func(context.Context) error{s.Run, r.Run} {
		running.Go(func() {
			if err := run(ctx); err != nil {
				t.Error(err)
			}
		})
	}
	e := &env{TB: t, Registry: r, ctx: ctx, path: o.path}
	e.stop = sync.OnceFunc(func() {
		cancel()
		running.Wait()
	})
	t.Cleanup(e.stop)
	if _, err := e.create(&corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "default"}}); err != nil && !apierrors.IsAlreadyExists(err) {
		t.Fatal(err)
	}
	return e
}

func start(t testing.TB) *env {
	t.Helper()
	return open(t, options{})
}

// res finds the resource of an object or of a plural name.
func res(name string) *resource.Resource {
	for _, r := range table().All() {
		if r.Key() == name {
			return r
		}
	}
	panic("no resource " + name)
}

func resOf(o resource.Object) *resource.Resource {
	gvks, _, err := table().Scheme().ObjectKinds(o)
	if err != nil {
		panic(err)
	}
	r, ok := table().ByKind(gvks[0])
	if !ok {
		panic("not served: " + gvks[0].String())
	}
	return r
}

func (e *env) create(o resource.Object) (resource.Object, error) {
	namespace := o.GetNamespace()
	if !resOf(o).Namespaced {
		namespace = "" // as the path of the request says
	}
	return e.Create(e.ctx, resOf(o), namespace, o, server.WriteOptions{})
}

func mustCreate[T resource.Object](e *env, o T) T {
	e.Helper()
	out, err := e.create(o)
	if err != nil {
		e.Fatal(err)
	}
	return out.(T)
}

// change updates an object ("" for its main resource) by a function.
func change[T resource.Object](e *env, sub string, o T, fn func(T)) (T, error) {
	out, _, err := e.Update(e.ctx, resOf(o), sub, o.GetNamespace(), o.GetName(), server.UpdateOptions{},
		func(cur resource.Object) (resource.Object, error) {
			fn(cur.(T))
			return cur, nil
		})
	if err != nil {
		var none T
		return none, err
	}
	return out.(T), nil
}

func mustChange[T resource.Object](e *env, sub string, o T, fn func(T)) T {
	e.Helper()
	out, err := change(e, sub, o, fn)
	if err != nil {
		e.Fatal(err)
	}
	return out
}

func get[T resource.Object](e *env, o T) (T, error) {
	out, err := e.Get(e.ctx, resOf(o), o.GetNamespace(), o.GetName(), "")
	if err != nil {
		var none T
		return none, err
	}
	return out.(T), nil
}

func mustGet[T resource.Object](e *env, o T) T {
	e.Helper()
	out, err := get(e, o)
	if err != nil {
		e.Fatal(err)
	}
	return out
}

func (e *env) delete(o resource.Object, d server.DeleteOptions) (bool, error) {
	_, done, err := e.Registry.Delete(e.ctx, resOf(o), o.GetNamespace(), o.GetName(), d)
	return done, err
}

// wantErr checks an API error's reason and that its words hold text.
func wantErr(t testing.TB, err error, reason metav1.StatusReason, text string) {
	t.Helper()
	var status apierrors.APIStatus
	switch {
	case err == nil:
		t.Errorf("no error, want %s: %s", reason, text)
	case !errors.As(err, &status) || apierrors.ReasonForError(err) != reason:
		t.Errorf("error %v (%s), want reason %s", err, apierrors.ReasonForError(err), reason)
	case !strings.Contains(err.Error(), text):
		t.Errorf("error says %q, want %q in it", err, text)
	}
}

func pod(name string) *corev1.Pod {
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name},
		Spec:       corev1.PodSpec{Containers: []corev1.Container{{Name: "c", Image: "nginx"}}},
	}
}

func configMap(name string) *corev1.ConfigMap {
	return &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name}}
}

func service(name string, kind corev1.ServiceType, ports ...int32) *corev1.Service {
	s := &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name},
		Spec:       corev1.ServiceSpec{Type: kind, Selector: map[string]string{"app": name}},
	}
	for _, p := range ports {
		s.Spec.Ports = append(s.Spec.Ports, corev1.ServicePort{Name: fmt.Sprintf("p%d", p), Port: p})
	}
	return s
}

// bound makes a pod that runs on a node.
func (e *env) bound(name string) *corev1.Pod {
	e.Helper()
	p := mustCreate(e, pod(name))
	e.bind(p)
	return mustGet(e, p)
}

func (e *env) bind(p *corev1.Pod) {
	e.Helper()
	if err := e.Transact(e.ctx, func(tx *registry.Tx) error { return tx.Bind(p, "n1") }); err != nil {
		e.Fatal(err)
	}
}

func (e *env) revision() (rev int64) {
	_ = e.View(func(v *registry.View) error { rev = v.Revision(); return nil })
	return rev
}

func ptr[T any](v T) *T { return &v }
