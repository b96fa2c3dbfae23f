// Package controllertest runs controllers against a real registry on a real store, in virtual time: call New inside a
// testing/synctest bubble. Only tests import it.
package controllertest

import (
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"path/filepath"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	apiresource "github.com/whalepod/whalepod/api/resource"
	"github.com/whalepod/whalepod/master/internal/registry"
	"github.com/whalepod/whalepod/master/internal/store/bolt"
)

// Table of the kinds, made once for all tests of a process.
var Table = sync.OnceValue(apiresource.NewTable)

// Env is a registry on a store in a temporary directory, with the namespace "default".
type Env struct {
	T        testing.TB
	Registry *registry.Registry
	Logger   *slog.Logger
	Ctx      context.Context
}

// New opens the store and runs it until the test's end.
func New(t testing.TB) *Env {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	e := &Env{T: t, Ctx: ctx, Logger: slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: slog.LevelInfo}))}
	var running sync.WaitGroup
	t.Cleanup(func() {
		cancel()
		running.Wait()
	})
	s, err := bolt.Open(bolt.Config{Path: filepath.Join(t.TempDir(), "store.db"), Schema: registry.Schema(Table()), Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	e.Registry = registry.New(s, registry.Config{
		Table: Table(), ServiceCIDR: netip.MustParsePrefix("10.254.0.0/16"), NodePortFirst: 30000, NodePortLast: 32767,
		NotReadySeconds: 10, UnreachableSeconds: 10, Logger: e.Logger,
	})
	for _, run := range []func(context.Context) error{s.Run, e.Registry.Run} {
		running.Go(func() {
			if err := run(ctx); err != nil {
				t.Error(err)
			}
		})
	}
	Create(e, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "default"}})
	return e
}

// Start runs a controller until the returned function is called or the test ends. It returns when the controller has seen what there
// is: what comes afterwards are events to it.
func (e *Env) Start(run func(context.Context) error) (stop func()) {
	ctx, cancel := context.WithCancel(e.Ctx)
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := run(ctx); err != nil {
			e.T.Error(err)
		}
	}()
	stop = func() {
		cancel()
		<-done
	}
	e.T.Cleanup(stop)
	synctest.Wait()
	return stop
}

// Update runs a transaction that must succeed.
func (e *Env) Update(fn func(tx *registry.Tx) error) {
	e.T.Helper()
	if err := e.Registry.Transact(e.Ctx, fn); err != nil {
		e.T.Fatal(err)
	}
}

// Settle waits until nothing moves, then lets time pass.
func Settle(d time.Duration) {
	synctest.Wait()
	time.Sleep(d)
	synctest.Wait()
}

// Create adds an object.
func Create[T registry.Object](e *Env, obj T) T {
	e.T.Helper()
	var out T
	e.Update(func(tx *registry.Tx) (err error) {
		out, err = registry.Create(tx, obj.DeepCopyObject().(T))
		return err
	})
	return out
}

// Get returns an object that must exist.
func Get[T registry.Object](e *Env, namespace, name string) T {
	e.T.Helper()
	out, err := Find[T](e, namespace, name)
	if err != nil {
		e.T.Fatal(err)
	}
	return out
}

// Find returns an object or an error.
func Find[T registry.Object](e *Env, namespace, name string) (out T, err error) {
	err = e.Registry.View(func(v *registry.View) error {
		out, err = registry.Get[T](v, namespace, name)
		return err
	})
	return out, err
}

// List returns all objects of a namespace, or of all ("").
func List[T registry.Object](e *Env, namespace string) (out []T) {
	_ = e.Registry.View(func(v *registry.View) error {
		for o := range registry.List[T](v, namespace) {
			out = append(out, o)
		}
		return nil
	})
	return out
}

// Change writes an object's main resource.
func Change[T registry.Object](e *Env, namespace, name string, fn func(T)) {
	e.T.Helper()
	change(e, namespace, name, fn, registry.Put[T])
}

// ChangeStatus writes an object's status.
func ChangeStatus[T registry.Object](e *Env, namespace, name string, fn func(T)) {
	e.T.Helper()
	change(e, namespace, name, fn, registry.PutStatus[T])
}

func change[T registry.Object](e *Env, namespace, name string, fn func(T), put func(*registry.Tx, T) (T, error)) {
	e.T.Helper()
	e.Update(func(tx *registry.Tx) error {
		old, err := registry.Get[T](tx, namespace, name)
		if err != nil {
			return err
		}
		obj := old.DeepCopyObject().(T)
		fn(obj)
		_, err = put(tx, obj)
		return err
	})
}

// Delete deletes an object; one that is gone already is no failure.
func Delete[T registry.Object](e *Env, namespace, name string, o registry.DeleteOptions) {
	e.T.Helper()
	e.Update(func(tx *registry.Tx) error {
		obj, err := registry.Get[T](tx, namespace, name)
		if apierrors.IsNotFound(err) {
			return nil
		}
		if err != nil {
			return err
		}
		return tx.Delete(obj, o)
	})
}

// Node makes a ready node with 4 cores, 8 GiB and room for 110 pods.
func Node(e *Env, name string) *corev1.Node {
	e.T.Helper()
	return Create(e, &corev1.Node{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Status: corev1.NodeStatus{
			Allocatable: corev1.ResourceList{
				corev1.ResourceCPU: resource.MustParse("4"), corev1.ResourceMemory: resource.MustParse("8Gi"), corev1.ResourcePods: resource.MustParse("110"),
			},
			Conditions: []corev1.NodeCondition{{Type: corev1.NodeReady, Status: corev1.ConditionTrue, LastTransitionTime: metav1.Now()}},
		},
	})
}

// Pod is a manifest with one container.
func Pod(name string, labels map[string]string) *corev1.Pod {
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name, Labels: labels},
		Spec:       PodSpec(),
	}
}

// PodSpec has one container.
func PodSpec() corev1.PodSpec {
	return corev1.PodSpec{Containers: []corev1.Container{{Name: "c", Image: "nginx"}}}
}

// SetReady has a pod running and ready, or not.
func SetReady(e *Env, namespace, name, ip string, ready bool) {
	e.T.Helper()
	ChangeStatus(e, namespace, name, func(p *corev1.Pod) {
		status := corev1.ConditionFalse
		if ready {
			status = corev1.ConditionTrue
		}
		p.Status.Phase, p.Status.PodIP, p.Status.PodIPs = corev1.PodRunning, ip, nil
		if ip != "" {
			p.Status.PodIPs = []corev1.PodIP{{IP: ip}}
		}
		for i := range p.Status.Conditions {
			if c := &p.Status.Conditions[i]; c.Type == corev1.PodReady {
				if c.Status != status {
					c.LastTransitionTime = metav1.Now()
				}
				c.Status = status
				return
			}
		}
		p.Status.Conditions = append(p.Status.Conditions, corev1.PodCondition{Type: corev1.PodReady, Status: status, LastTransitionTime: metav1.Now()})
	})
}

// Events are the messages recorded about an object, as "Reason: message xCount".
func Events(e *Env, name string) (out []string) {
	Settle(time.Second)
	for _, ev := range List[*corev1.Event](e, "") {
		if ev.InvolvedObject.Name == name {
			text := ev.Reason + ": " + ev.Message
			if ev.Count > 1 {
				text += fmt.Sprintf(" x%d", ev.Count)
			}
			out = append(out, text)
		}
	}
	return out
}
