package registry

import (
	"context"
	"fmt"

	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// Scaled is a kind of controllers: how many pods one wants.
type Scaled struct {
	// Resource is the key of its objects.
	Resource string
	// Kind as the storage version has it.
	Kind string
	// Replicas reads a stored object. It asks no webhook, so it may be used in a transaction.
	Replicas func(Object) (int32, error)
}

// ScaledBy finds a kind as owner references name it; kinds without a scale are an error.
func (r *Registry) ScaledBy(gvk schema.GroupVersionKind) (s Scaled, err error) {
	res, ok := r.cfg.Table.ByKind(gvk)
	if !ok {
		return s, &meta.NoKindMatchError{GroupKind: gvk.GroupKind(), SearchedVersions: []string{gvk.Version}}
	}
	s.Resource, s.Kind = res.Key(), res.Kind
	if scale := res.Rules().Scale; scale != nil {
		s.Replicas = func(obj Object) (int32, error) {
			n, _, _ := scale.Get(obj)
			return n, nil
		}
		return s, nil
	}
	gv := gvk.GroupVersion()
	// In the version that is named, unless a webhook would have to be asked for it.
	if _, ok := res.SubresourceIn(res.Storage, "scale"); ok && res.AsksWebhook() {
		gv = res.Storage
	}
	if _, ok := res.SubresourceIn(gv, "scale"); !ok || !res.IsCustom() {
		return s, fmt.Errorf("%s does not implement the scale subresource", res.GroupResource())
	}
	if of, ok := r.cfg.Table.Lookup(gv, res.Name); ok && of.SameDefinition(res) {
		res = of
	}
	s.Replicas = func(obj Object) (int32, error) {
		if stored := obj.GetObjectKind().GroupVersionKind().GroupVersion(); res.AsksWebhook() && stored != gv {
			return 0, fmt.Errorf("the scale of %s %q cannot be read: it is kept as %s, and only a webhook can convert it to %s; write it anew",
				res.GroupResource(), obj.GetName(), stored, gv)
		}
		objs, err := res.ReadShared(context.Background(), obj) // asks nobody
		if err != nil {
			return 0, err
		}
		n, _, _, err := res.Replicas(objs[0], gv)
		return n, err
	}
	return s, nil
}
