package podautoscaler

import (
	"context"
	"errors"
	"net/http"
	"slices"
	"time"

	autoscalingv2 "k8s.io/api/autoscaling/v2"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/whalepod/whalepod/master/internal/registry"
)

// conversionPatience is how long an autoscaler waits for a conversion webhook: others wait behind it.
const conversionPatience = 3 * time.Second

// errConverted: to read this target would take a conversion webhook.
var errConverted = errors.New("the object is kept in another version")

// target of an autoscaler.
type target struct {
	scale
	key registry.Key
	// read the scale of a stored object, and give one with other replicas, to be stored.
	read func(context.Context, registry.Object) (scale, error)
	set  func(context.Context, registry.Object, int32) (registry.Object, error)
	// outside changes a custom resource as a client would: it is checked by its schema, and a webhook may convert it, which
	// must not happen in a transaction. read and set then get it in the version that is scaled.
	outside func(context.Context, func(registry.Object) (registry.Object, error)) error
}

// target finds what an autoscaler scales: any served kind that has a scale, under any of its groups. A conversion webhook is
// asked for it only if that is said.
func (c *Controller) target(ctx context.Context, v *registry.View, hpa *autoscalingv2.HorizontalPodAutoscaler, ask bool) (t target, err error) {
	ref := hpa.Spec.ScaleTargetRef
	gv, err := schema.ParseGroupVersion(ref.APIVersion)
	if err != nil {
		return t, err
	}
	kind := schema.GroupKind{Group: gv.Group, Kind: ref.Kind}
	for _, r := range c.cfg.Registry.Table().All() {
		if r.Kind != kind.Kind || !slices.ContainsFunc(r.Served, func(gv schema.GroupVersion) bool { return gv.Group == kind.Group }) {
			continue
		}
		// The version that is named, else any of the group: Kubernetes asks for the kind without its version. So that in
		// which objects are kept is as good where others take a webhook.
		offers := func(gv schema.GroupVersion) bool {
			_, ok := r.SubresourceIn(gv, "scale")
			return ok && gv.Group == kind.Group && slices.Contains(r.Served, gv)
		}
		if r.AsksWebhook() && offers(r.Storage) {
			gv = r.Storage
		}
		if !offers(gv) {
			i := slices.IndexFunc(r.Served, offers)
			if i < 0 {
				return t, apierrors.NewGenericServerResponse(http.StatusNotFound, "get", r.GroupResource(), ref.Name, "", 0, true)
			}
			gv = r.Served[i]
		}
		if r.IsCustom() {
			if of, ok := c.cfg.Registry.Table().Lookup(gv, r.Name); ok && of.SameDefinition(r) {
				r = of
			}
		}
		t.key = registry.Key{Resource: r.Key(), Namespace: hpa.Namespace, Name: ref.Name}
		t.read = func(ctx context.Context, o registry.Object) (s scale, err error) {
			ctx, cancel := context.WithTimeout(ctx, conversionPatience)
			defer cancel()
			objs, err := r.ReadShared(ctx, o)
			if err == nil {
				s.spec, s.status, s.selector, err = r.Replicas(objs[0], gv)
			}
			return s, err
		}
		t.set = func(ctx context.Context, o registry.Object, n int32) (registry.Object, error) {
			objs, err := r.ReadShared(ctx, o)
			if err != nil {
				return nil, err
			}
			next := objs[0].DeepCopyObject().(registry.Object)
			return next, r.SetScale(next, gv, n)
		}
		if r.IsCustom() {
			t.outside = func(ctx context.Context, next func(registry.Object) (registry.Object, error)) error {
				return c.cfg.Registry.Change(ctx, r, hpa.Namespace, ref.Name, next)
			}
		}
		obj, err := registry.Lookup(v, t.key)
		if err != nil {
			return t, err
		}
		if !ask && r.AsksWebhook() && obj.GetObjectKind().GroupVersionKind().GroupVersion() != r.Storage {
			return t, errConverted
		}
		t.scale, err = t.read(ctx, obj)
		return t, err
	}
	return t, &meta.NoKindMatchError{GroupKind: kind}
}
