package resource

import (
	"sync"
	"testing"
)

// Objects of the store are shared by all its readers: nothing here may write to one. The race detector would see it.
func TestSharedObjects(t *testing.T) {
	codec := table.StorageCodec()
	for _, r := range table.All() {
		in := randomObject(r, 3)
		in.SetAnnotations(nil)
		obj, err := table.ToStorage(in)
		if err != nil {
			t.Fatal(err)
		}
		rules := r.Rules()
		var wg sync.WaitGroup
		for range 4 {
			wg.Go(func() {
				for _, gv := range r.Served {
					if _, err := table.FromStorage(obj, gv); err != nil {
						t.Error(err)
					}
				}
				if _, err := table.Table(r, []Object{obj}, TableOptions{}); err != nil {
					t.Error(err)
				}
				if _, err := codec.Encode(r.Key(), obj); err != nil {
					t.Error(err)
				}
				rules.Validate(t.Context(), obj)
				rules.ValidateUpdate(t.Context(), obj, obj)
				if rules.Fields != nil {
					rules.Fields(obj)
				}
				if rules.Warnings != nil {
					rules.Warnings(t.Context(), obj, obj)
				}
				next := obj.DeepCopyObject().(Object)
				if rules.PrepareUpdate != nil {
					rules.PrepareUpdate(next, obj)
				}
				if rules.PrepareStatus != nil {
					rules.PrepareStatus(next, obj)
				}
			})
		}
		wg.Wait()
	}
}
