package custom

import (
	"context"
	"fmt"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

// AsksWebhook says that objects change their version at a webhook: it takes time, it can fail, and it must not happen while
// others wait. Objects of other kinds are converted by their apiVersion alone.
func (k *Kind) AsksWebhook() bool { return k.asks != nil }

// Read gives stored objects as they are now in a version. Those that have nothing to change are the objects themselves, others
// share nothing with them. A webhook is asked about all that need it together.
func (k *Kind) Read(ctx context.Context, objs []*unstructured.Unstructured, version string) ([]*unstructured.Unstructured, error) {
	return k.read(ctx, objs, version, false)
}

// ReadShared is Read for objects that others are likely to read in the same version at the same time.
func (k *Kind) ReadShared(ctx context.Context, objs []*unstructured.Unstructured, version string) ([]*unstructured.Unstructured, error) {
	return k.read(ctx, objs, version, true)
}

func (k *Kind) read(ctx context.Context, objs []*unstructured.Unstructured, version string, share bool) ([]*unstructured.Unstructured, error) {
	to, ok := k.versions[version]
	if !ok {
		return nil, fmt.Errorf("request to convert CR to an invalid version: %s", version)
	}
	out := make([]*unstructured.Unstructured, len(objs))
	var others []int // that are of another version, for the webhook
	for i, u := range objs {
		own, err := k.versionOf(u)
		switch {
		case err != nil:
			return nil, err
		case own == to:
			out[i], err = k.renew(u, own)
		case k.asks != nil:
			others = append(others, i)
		default:
			out[i], err = k.relabel(u, own, to)
		}
		if err != nil {
			return nil, err
		}
	}
	if len(others) == 0 {
		return out, nil
	}
	wanted := make([]*unstructured.Unstructured, len(others))
	for j, i := range others {
		wanted[j] = objs[i]
	}
	var converted []*unstructured.Unstructured
	var err error
	if share {
		converted, err = to.recent.convert(ctx, wanted, func(objs []*unstructured.Unstructured) ([]*unstructured.Unstructured, []int, error) {
			return k.askStored(ctx, objs, to)
		})
	} else {
		converted, _, err = k.askStored(ctx, wanted, to)
	}
	if err != nil {
		return nil, err
	}
	for j, i := range others {
		out[i] = converted[j]
	}
	return out, nil
}

// relabel gives a stored object in another version of the same fields.
func (k *Kind) relabel(u *unstructured.Unstructured, own, to *Version) (*unstructured.Unstructured, error) {
	now, err := k.renew(u, own)
	if err != nil {
		return nil, err
	}
	if now == u {
		now = u.DeepCopy()
	}
	return now, to.relabel(now)
}

// relabel makes an object one of this version.
func (v *Version) relabel(u *unstructured.Unstructured) error {
	u.SetAPIVersion(v.GVK.GroupVersion().String())
	_, err := v.coerce(u, stored)
	return err
}

// askStored asks the webhook about stored objects; sizes are of what it answered.
func (k *Kind) askStored(ctx context.Context, objs []*unstructured.Unstructured, to *Version) (out []*unstructured.Unstructured, sizes []int, err error) {
	current := make([]*unstructured.Unstructured, len(objs))
	for i, u := range objs {
		own, err := k.versionOf(u)
		if err != nil {
			return nil, nil, err
		}
		if current[i], err = k.renew(u, own); err != nil {
			return nil, nil, err
		}
	}
	return k.asks.convert(ctx, current, to)
}

// FromStorage is Read for one object, without a webhook: objects of kinds that have one must be of the version already, and so
// come from Read.
func (k *Kind) FromStorage(u *unstructured.Unstructured, version string) (*unstructured.Unstructured, error) {
	to, ok := k.versions[version]
	if !ok {
		return nil, fmt.Errorf("request to convert CR to an invalid version: %s", version)
	}
	own, err := k.versionOf(u)
	switch {
	case err != nil:
		return nil, err
	case own == to && k.asks != nil:
		return u, nil
	case own == to:
		return k.renew(u, own)
	case k.asks != nil:
		return nil, fmt.Errorf("%s %s/%s is needed in %s, and nobody has asked the conversion webhook", u.GroupVersionKind(), u.GetNamespace(), u.GetName(), version)
	}
	return k.relabel(u, own, to)
}

// Convert gives an object in another version. It is not changed, and the result shares nothing with it unless it is the object
// itself, of that version already.
func (k *Kind) Convert(ctx context.Context, u *unstructured.Unstructured, version string) (*unstructured.Unstructured, error) {
	to, ok := k.versions[version]
	if !ok {
		return nil, fmt.Errorf("request to convert CR to an invalid version: %s", version)
	}
	own, err := k.versionOf(u)
	switch {
	case err != nil:
		return nil, err
	case own == to:
		return u, nil
	case k.asks != nil && len(u.Object) > 2: // there is nothing to convert in one that has but its kind
		out, _, err := k.asks.convert(ctx, []*unstructured.Unstructured{u}, to)
		if err != nil {
			return nil, err
		}
		return out[0], nil
	}
	u = u.DeepCopy()
	return u, to.relabel(u)
}

// ToStorage makes a complete object of any version one that can be written. It belongs to the result.
func (k *Kind) ToStorage(ctx context.Context, u *unstructured.Unstructured) (*unstructured.Unstructured, error) {
	out, err := k.Convert(ctx, u, k.Storage.Spec.Name)
	if err != nil || out == u {
		return out, err
	}
	return out, k.Storage.setDefaults(out)
}
