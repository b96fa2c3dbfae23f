package registry

import (
	"context"
	"errors"
	"slices"

	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"github.com/whalepod/whalepod/api/resource"
	"github.com/whalepod/whalepod/api/server"
)

// Objects of custom kinds are kept in one version and handled in that of the Resource. Where conversion is a matter of their
// apiVersion alone, they are handed out as they are kept, and the server converts each when it writes it. Where a webhook
// converts them it is asked here: behind the views and transactions, about all objects of a page or of a batch of events
// together, and before selectors, which are about the version that is asked for.

// convertChunk is how many objects are converted at once when it is not known how many of them a page needs.
const convertChunk = 500

// readOne gives a stored object as the rules of a Resource want it.
func readOne(ctx context.Context, res *resource.Resource, obj Object) (Object, error) {
	if !res.IsCustom() {
		return obj, nil
	}
	out, err := res.ReadShared(ctx, obj)
	if err != nil {
		return nil, err
	}
	return out[0], nil
}

// handOut is readOne for what goes to the server.
func handOut(ctx context.Context, res *resource.Resource, obj Object) (Object, error) {
	if !res.AsksWebhook() {
		return obj, nil
	}
	return readOne(ctx, res, obj)
}

// Change changes an object on behalf of a controller where Put cannot: an object that a webhook converts. It is not for
// transactions.
func (r *Registry) Change(ctx context.Context, res *resource.Resource, namespace, name string, change func(Object) (Object, error)) error {
	_, _, err := r.Update(ctx, res, "", namespace, name, server.UpdateOptions{}, func(current resource.Object) (resource.Object, error) {
		return change(current)
	})
	return err
}

// convertPage converts a page: the one that is there, or, where selectors want converted objects, what matches of raw.
func convertPage(ctx context.Context, res *resource.Resource, q server.ListQuery, raw []resource.Object, out *server.ListResult) (err error) {
	if !selective(q) {
		out.Items, err = res.Read(ctx, out.Items)
		return err
	}
	revision, err := parseRevision(out.ResourceVersion)
	if err != nil {
		return err
	}
	match := matcher(res, q.Labels, q.Fields)
	for part := range slices.Chunk(raw, convertChunk) {
		objs, err := res.Read(ctx, part)
		if err != nil {
			return err
		}
		for _, o := range objs {
			if !match(o) {
				continue
			}
			if q.Limit > 0 && int64(len(out.Items)) == q.Limit {
				last := out.Items[len(out.Items)-1]
				out.Continue = continueToken{ResourceVersion: revision, StartKey: last.GetName(), Namespace: last.GetNamespace()}.String()
				return nil
			}
			out.Items = append(out.Items, o)
		}
	}
	return nil
}

// convertInitial converts the objects that a watch begins with.
func (w *objectWatch) convertInitial(ctx context.Context) error {
	objs, err := w.res.Read(ctx, w.initial)
	if err != nil {
		return err
	}
	w.initial = slices.DeleteFunc(objs, func(o resource.Object) bool { return !w.match(o) })
	return nil
}

// next is store.Watcher.Next with objects of the watch's version. Events whose conversion the context's end has cut off come
// again with the next call.
func (w *objectWatch) next(ctx context.Context) ([]Event, error) {
	if !w.res.AsksWebhook() {
		return w.w.Next(ctx, watchBatch)
	}
	if len(w.pending) == 0 {
		w.handedOut = w.w.Revision()
		events, err := w.w.Next(ctx, watchBatch)
		if err != nil {
			return nil, err
		}
		w.pending = events
	}
	out, err := w.converted(ctx, w.pending)
	if err == nil {
		w.pending = nil
	}
	return out, err
}

// converted gives events with objects of the watch's version. Former states are looked at by selectors alone.
func (w *objectWatch) converted(ctx context.Context, events []Event) ([]Event, error) {
	objs := make([]resource.Object, 0, 2*len(events))
	for _, e := range events {
		objs = append(objs, e.Object)
		if e.Prev != nil && w.selects {
			objs = append(objs, e.Prev)
		}
	}
	objs, err := w.res.ReadShared(ctx, objs...)
	if err != nil {
		return nil, watchError(err)
	}
	out := slices.Clone(events)
	for i := range out {
		out[i].Object, objs = objs[0], objs[1:]
		if out[i].Prev != nil && w.selects {
			out[i].Prev, objs = objs[0], objs[1:]
		}
	}
	return out, nil
}

// watchError is how a watch ends whose objects cannot be converted: an internal error, as in Kubernetes.
func watchError(err error) error {
	var status apierrors.APIStatus
	if !errors.As(err, &status) || status.Status().Reason != "" {
		return err
	}
	return apierrors.NewInternalError(err)
}
