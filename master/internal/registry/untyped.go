package registry

import (
	"iter"

	"github.com/whalepod/whalepod/api/resource"
)

// Table of the kinds that this registry keeps.
func (r *Registry) Table() *resource.Table { return r.cfg.Table }

// Lookup returns an object of whatever kind, or a NotFound error: for controllers that treat all kinds alike.
func Lookup(vr Viewer, key Key) (Object, error) {
	v := vr.view()
	o, err := v.Reader.Get(key)
	if err == nil {
		return o, nil
	}
	if res, ok := v.r.cfg.Table.ByKey(key.Resource); ok {
		return nil, statusError(err, res, key.Name)
	}
	return nil, err
}

// IndexedObjects walks the objects of a resource, named as in "deployments.apps", that an index has under value.
func IndexedObjects(vr Viewer, resource, index, value string) iter.Seq[Object] {
	return vr.view().Reader.ByIndex(resource, index, value)
}
