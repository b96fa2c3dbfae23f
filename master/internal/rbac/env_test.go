package rbac

import (
	"context"
	"log/slog"
	"net/netip"
	"path/filepath"
	"sync"
	"testing"

	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/whalepod/whalepod/api/resource"
	"github.com/whalepod/whalepod/api/server"
	"github.com/whalepod/whalepod/master/internal/registry"
	"github.com/whalepod/whalepod/master/internal/store/bolt"
)

var testTable = sync.OnceValue(resource.NewTable)

// env is an authorizer on a real store with the namespaces a and b.
type env struct {
	testing.TB
	*Authorizer
	backend server.Backend
}

func newEnv(t testing.TB) *env {
	t.Helper()
	quiet := slog.New(slog.DiscardHandler)
	s, err := bolt.Open(bolt.Config{Path: filepath.Join(t.TempDir(), "store.db"), Schema: registry.Schema(testTable()), Log: quiet})
	if err != nil {
		t.Fatal(err)
	}
	r := registry.New(s, registry.Config{Table: testTable(), ServiceCIDR: netip.MustParsePrefix("10.254.0.0/16"), Logger: quiet})
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error)
	go func() { done <- s.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	z := New(r)
	e := &env{TB: t, Authorizer: z, backend: Guard(r, z, testTable())}
	for _, ns := range []string{"a", "b"} {
		add(e, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: ns}})
	}
	return e
}

func (e *env) transact(fn func(*registry.Tx) error) {
	e.Helper()
	if err := e.registry.Transact(context.Background(), fn); err != nil {
		e.Fatal(err)
	}
}

func add[T registry.Object](e *env, obj T) {
	e.Helper()
	e.transact(func(tx *registry.Tx) error {
		_, err := registry.Create(tx, obj.DeepCopyObject().(T))
		return err
	})
}

func get[T registry.Object](e *env, namespace, name string) (out T) {
	e.Helper()
	if err := e.registry.View(func(v *registry.View) (err error) {
		out, err = registry.Get[T](v, namespace, name)
		return err
	}); err != nil {
		e.Fatal(err)
	}
	return out
}

// change writes an object.
func change[T registry.Object](e *env, namespace, name string, fn func(T)) {
	e.Helper()
	e.transact(func(tx *registry.Tx) error {
		have, err := registry.Get[T](tx, namespace, name)
		if err != nil {
			return err
		}
		next := have.DeepCopyObject().(T)
		fn(next)
		_, err = registry.Put(tx, next)
		return err
	})
}

func remove[T registry.Object](e *env, namespace, name string) {
	e.Helper()
	e.transact(func(tx *registry.Tx) error {
		have, err := registry.Get[T](tx, namespace, name)
		if err != nil {
			return err
		}
		return tx.Delete(have, registry.DeleteOptions{})
	})
}

func clusterRole(name string, rules ...rbacv1.PolicyRule) *rbacv1.ClusterRole {
	return &rbacv1.ClusterRole{ObjectMeta: metav1.ObjectMeta{Name: name}, Rules: rules}
}

func nsRole(namespace, name string, rules ...rbacv1.PolicyRule) *rbacv1.Role {
	return &rbacv1.Role{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name}, Rules: rules}
}

func clusterBinding(name, role string, subjects ...rbacv1.Subject) *rbacv1.ClusterRoleBinding {
	return &rbacv1.ClusterRoleBinding{ObjectMeta: metav1.ObjectMeta{Name: name}, Subjects: subjects, RoleRef: ref(kindClusterRole, role)}
}

func nsBinding(namespace, name, kind, role string, subjects ...rbacv1.Subject) *rbacv1.RoleBinding {
	return &rbacv1.RoleBinding{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name}, Subjects: subjects, RoleRef: ref(kind, role)}
}

func ref(kind, name string) rbacv1.RoleRef {
	return rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: kind, Name: name}
}

func user(name string) rbacv1.Subject {
	return rbacv1.Subject{APIGroup: rbacv1.GroupName, Kind: rbacv1.UserKind, Name: name}
}

func group(name string) rbacv1.Subject {
	return rbacv1.Subject{APIGroup: rbacv1.GroupName, Kind: rbacv1.GroupKind, Name: name}
}

func account(namespace, name string) rbacv1.Subject {
	return rbacv1.Subject{Kind: rbacv1.ServiceAccountKind, Namespace: namespace, Name: name}
}

func who(name string, groups ...string) server.User { return server.User{Name: name, Groups: groups} }
