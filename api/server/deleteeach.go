package server

import (
	"context"

	"golang.org/x/sync/errgroup"
	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"github.com/whalepod/whalepod/api/resource"
)

// deleteWorkers is how many objects of a collection are deleted at the same time: they share the disk's syncs.
const deleteWorkers = 16

// DeleteEach deletes what a query matches one by one, by the backend's own Delete, and returns what it matched. Objects go
// one transaction each, so that a large collection does not hold up other writers; one that has gone meanwhile is as good
// as deleted.
func DeleteEach(ctx context.Context, b Backend, r *resource.Resource, q ListQuery, o DeleteOptions) ([]resource.Object, error) {
	page, err := b.List(ctx, r, q)
	if err != nil {
		return nil, err
	}
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(deleteWorkers)
	for _, obj := range page.Items {
		each := o
		if each.UID == nil {
			uid := obj.GetUID()
			each.UID = &uid
		}
		g.Go(func() error {
			_, _, err := b.Delete(gctx, r, obj.GetNamespace(), obj.GetName(), each)
			if apierrors.IsNotFound(err) || apierrors.IsConflict(err) && o.UID == nil && o.ResourceVersion == nil {
				return nil
			}
			return err
		})
	}
	return page.Items, g.Wait()
}
