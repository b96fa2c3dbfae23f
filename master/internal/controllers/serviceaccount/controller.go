// Package serviceaccount keeps in every namespace what pods count on: the ServiceAccount "default", and the ConfigMap
// kube-root-ca.crt with the certificate authority of the API server.
//
// It writes: those two objects.
package serviceaccount

import (
	"context"
	"log/slog"
	"maps"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/whalepod/whalepod/master/internal/controller"
	"github.com/whalepod/whalepod/master/internal/registry"
)

const (
	component = "serviceaccount-controller"
	account   = "default"
	rootCA    = "kube-root-ca.crt"
	caKey     = "ca.crt"
	about     = "kubernetes.io/description"
	aboutText = "The certificate authority by which pods recognise the API server inside the cluster."
)

// Config of the controller.
type Config struct {
	Registry *registry.Registry
	Logger   *slog.Logger
	// CA is the certificate of the authority as PEM. Without it no ConfigMap is made.
	CA []byte
}

// Controller keeps the default objects of namespaces.
type Controller struct {
	cfg  Config
	loop *controller.Loop
}

// New makes the controller; Run starts it.
func New(cfg Config) *Controller {
	c := &Controller{cfg: cfg}
	c.loop = controller.New(controller.Config{
		Name: component, Registry: cfg.Registry, Logger: cfg.Logger,
		Watch: []string{"namespaces", "serviceaccounts", "configmaps"}, Keys: keys, All: all, Reconcile: c.reconcile,
	})
	return c
}

// Run works until ctx ends.
func (c *Controller) Run(ctx context.Context) error { return c.loop.Run(ctx) }

func keyOf(name string) controller.Key { return controller.Key{Resource: "namespaces", Name: name} }

func all(v *registry.View, add func(controller.Key)) {
	for ns := range registry.List[*corev1.Namespace](v, "") {
		add(keyOf(ns.Name))
	}
}

func keys(_ *registry.View, e registry.Event, add func(controller.Key)) {
	switch e.Object.(type) {
	case *corev1.Namespace:
		if !e.Deleted {
			add(e.Key)
		}
	case *corev1.ServiceAccount:
		if e.Deleted && e.Key.Name == account {
			add(keyOf(e.Key.Namespace))
		}
	case *corev1.ConfigMap:
		if e.Key.Name == rootCA {
			add(keyOf(e.Key.Namespace))
		}
	}
}

func (c *Controller) reconcile(ctx context.Context, key controller.Key) (time.Duration, error) {
	whole := false
	err := c.cfg.Registry.View(func(v *registry.View) (err error) {
		whole, err = c.whole(v, key.Name)
		return err
	})
	if err == nil && !whole {
		err = c.cfg.Registry.Transact(ctx, func(tx *registry.Tx) error { return c.complete(tx, key.Name) })
	}
	if apierrors.IsNotFound(err) || apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause) {
		return 0, nil
	}
	return 0, err
}

// whole says that nothing is missing, or that the namespace is on its way out.
func (c *Controller) whole(v registry.Viewer, name string) (bool, error) {
	ns, err := registry.Get[*corev1.Namespace](v, "", name)
	if err != nil || ns.DeletionTimestamp != nil {
		return true, err
	}
	if _, err := registry.Get[*corev1.ServiceAccount](v, name, account); err != nil {
		return false, ignoreMissing(err)
	}
	if len(c.cfg.CA) == 0 {
		return true, nil
	}
	cm, err := registry.Get[*corev1.ConfigMap](v, name, rootCA)
	if err != nil {
		return false, ignoreMissing(err)
	}
	return maps.Equal(cm.Data, c.data()), nil
}

func (c *Controller) data() map[string]string { return map[string]string{caKey: string(c.cfg.CA)} }

func ignoreMissing(err error) error {
	if apierrors.IsNotFound(err) {
		return nil
	}
	return err
}

func (c *Controller) complete(tx *registry.Tx, name string) error {
	meta := metav1.ObjectMeta{Namespace: name, Name: account}
	if _, err := registry.Get[*corev1.ServiceAccount](tx, name, account); apierrors.IsNotFound(err) {
		if _, err := registry.Create(tx, &corev1.ServiceAccount{ObjectMeta: meta}); err != nil {
			return err
		}
	} else if err != nil {
		return err
	}
	if len(c.cfg.CA) == 0 {
		return nil
	}
	cm, err := registry.Get[*corev1.ConfigMap](tx, name, rootCA)
	switch {
	case apierrors.IsNotFound(err):
		meta.Name, meta.Annotations = rootCA, map[string]string{about: aboutText}
		_, err = registry.Create(tx, &corev1.ConfigMap{ObjectMeta: meta, Data: c.data()})
	case err == nil && !maps.Equal(cm.Data, c.data()):
		cm = cm.DeepCopy()
		cm.Data, cm.BinaryData = c.data(), nil
		_, err = registry.Put(tx, cm)
	}
	return err
}
