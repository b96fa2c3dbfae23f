package registry

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"iter"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"

	"github.com/whalepod/whalepod/api/resource"
	"github.com/whalepod/whalepod/api/server"
	"github.com/whalepod/whalepod/master/internal/store"
)

// Get implements server.Backend.
func (r *Registry) Get(ctx context.Context, res *resource.Resource, namespace, name, resourceVersion string) (resource.Object, error) {
	var obj Object
	err := r.store.View(func(s store.Reader) error {
		if err := checkNotOlder(resourceVersion, s.Revision()); err != nil {
			return err
		}
		o, err := s.Get(keyOf(res, namespace, name))
		obj = o
		return statusError(err, res, name)
	})
	if err != nil {
		return nil, err
	}
	return handOut(ctx, res, obj)
}

// checkNotOlder refuses to answer from a state older than the client has seen already.
func checkNotOlder(resourceVersion string, current int64) error {
	if resourceVersion == "" || resourceVersion == "0" {
		return nil
	}
	rev, err := parseRevision(resourceVersion)
	if err != nil || rev < 0 {
		return badRevision(resourceVersion)
	}
	if rev > current {
		return tooLarge(rev, current)
	}
	return nil
}

// continueToken is where the next page begins. Its form is Kubernetes' own, opaque to clients. A token without a revision
// goes on from the present state (after a 410).
type continueToken struct {
	APIVersion      string `json:"v"`
	ResourceVersion int64  `json:"rv"`
	StartKey        string `json:"start"`
	Namespace       string `json:"ns,omitempty"`
}

const continueVersion = "meta.k8s.io/v1"

func (t continueToken) String() string {
	t.APIVersion = continueVersion
	b, _ := json.Marshal(t) // strings and numbers only
	return base64.RawURLEncoding.EncodeToString(b)
}

func parseContinue(s string) (continueToken, error) {
	var t continueToken
	b, err := base64.RawURLEncoding.DecodeString(s)
	if err == nil {
		err = json.Unmarshal(b, &t)
	}
	if err != nil || t.APIVersion != continueVersion || t.StartKey == "" {
		return t, apierrors.NewBadRequest("continue key is not valid: it must be the token of an earlier answer, unchanged")
	}
	return t, nil
}

// List implements server.Backend.
func (r *Registry) List(ctx context.Context, res *resource.Resource, q server.ListQuery) (*server.ListResult, error) {
	view, after, err := r.listAt(res, q)
	if err != nil {
		return nil, err
	}
	out := &server.ListResult{}
	var raw []resource.Object // for a webhook
	err = view(func(s store.Reader) error {
		if err := checkNotOlder(q.ResourceVersion, s.Revision()); err != nil && q.Continue == "" {
			return err
		}
		out.ResourceVersion = FormatRevision(s.Revision())
		if res.AsksWebhook() && selective(q) {
			for o := range candidates(s, res, q, after) {
				raw = append(raw, o)
			}
			return nil
		}
		r.page(s, res, q, after, out)
		return nil
	})
	if errors.Is(err, store.ErrCompacted) {
		return nil, expiredList(q, after)
	}
	if errors.Is(err, store.ErrFuture) {
		rev, _ := parseRevision(q.ResourceVersion)
		return nil, tooLarge(rev, r.revision())
	}
	if err == nil && res.AsksWebhook() {
		err = convertPage(ctx, res, q, raw, out)
	}
	return out, err
}

func (r *Registry) revision() (rev int64) {
	_ = r.store.View(func(s store.Reader) error { rev = s.Revision(); return nil })
	return rev
}

// listAt picks the state to list from and the key to begin behind.
func (r *Registry) listAt(res *resource.Resource, q server.ListQuery) (func(func(store.Reader) error) error, Key, error) {
	at := func(rev int64) func(func(store.Reader) error) error {
		return func(fn func(store.Reader) error) error { return r.store.ViewAt(rev, fn) }
	}
	if q.Continue != "" {
		t, err := parseContinue(q.Continue)
		if err != nil {
			return nil, Key{}, err
		}
		after := keyOf(res, t.Namespace, t.StartKey)
		if t.ResourceVersion <= 0 {
			return r.store.View, after, nil
		}
		return at(t.ResourceVersion), after, nil
	}
	exact := q.ResourceVersionMatch == metav1.ResourceVersionMatchExact ||
		(q.ResourceVersionMatch == "" && q.Limit > 0 && q.ResourceVersion != "" && q.ResourceVersion != "0")
	if !exact {
		return r.store.View, Key{}, nil
	}
	rev, err := parseRevision(q.ResourceVersion)
	if err != nil || rev < 0 {
		return nil, Key{}, badRevision(q.ResourceVersion)
	}
	return at(rev), Key{}, nil
}

func expiredList(q server.ListQuery, after Key) error {
	if q.Continue == "" {
		return apierrors.NewResourceExpired("The resourceVersion for the provided list is too old.")
	}
	err := apierrors.NewResourceExpired("The provided continue parameter is too old to display a consistent list result. " +
		"You can start a new list without the continue parameter, or use the continue token in this response to retrieve the remainder " +
		"of the results. Continuing with the provided token results in an inconsistent list - objects that were created, modified, " +
		"or deleted between the time the first chunk was returned and now may show up in the list.")
	err.ErrStatus.ListMeta.Continue = continueToken{ResourceVersion: -1, StartKey: after.Name, Namespace: after.Namespace}.String()
	return err
}

// page fills out with at most q.Limit matching objects.
func (r *Registry) page(s store.Reader, res *resource.Resource, q server.ListQuery, after Key, out *server.ListResult) {
	match := matcher(res, q.Labels, q.Fields)
	seen := 0
	for o := range candidates(s, res, q, after) {
		seen++
		if !match(o) {
			continue
		}
		if q.Limit > 0 && int64(len(out.Items)) == q.Limit {
			last := out.Items[len(out.Items)-1]
			out.Continue = continueToken{ResourceVersion: s.Revision(), StartKey: last.GetName(), Namespace: last.GetNamespace()}.String()
			break
		}
		out.Items = append(out.Items, o)
	}
	if out.Continue != "" && empty(q.Labels) && emptyFields(q.Fields) {
		left := remaining(s, res, q.Namespace, out.Items[len(out.Items)-1])
		out.RemainingItemCount = &left
	}
}

// remaining counts the objects behind one, which only unselected lists promise.
func remaining(s store.Reader, res *resource.Resource, namespace string, last Object) int64 {
	n := int64(0)
	for range s.List(res.Key(), namespace, keyOf(res, last.GetNamespace(), last.GetName())) {
		n++
	}
	return n
}

// candidates narrows a list by what the store has an index for; the matcher does the rest.
func candidates(s store.Reader, res *resource.Resource, q server.ListQuery, after Key) iter.Seq[store.Object] {
	if q.Fields != nil {
		if name, ok := q.Fields.RequiresExactMatch("metadata.name"); ok && (q.Namespace != "" || !res.Namespaced) && after == (Key{}) {
			return func(yield func(store.Object) bool) {
				if o, err := s.Get(keyOf(res, q.Namespace, name)); err == nil {
					yield(o)
				}
			}
		}
		if node, ok := q.Fields.RequiresExactMatch("spec.nodeName"); ok && res.Key() == "pods" && q.Namespace == "" && after == (Key{}) && q.Limit == 0 {
			if node == "" {
				node = Unbound
			}
			return s.ByIndex("pods", IndexNode, node)
		}
	}
	return s.List(res.Key(), q.Namespace, after)
}

// selective says whether a query is not for all objects.
func selective(q server.ListQuery) bool { return !empty(q.Labels) || !emptyFields(q.Fields) }

func empty(l labels.Selector) bool       { return l == nil || l.Empty() }
func emptyFields(f fields.Selector) bool { return f == nil || f.Empty() }

// matcher says which objects a list or watch selects.
func matcher(res *resource.Resource, l labels.Selector, f fields.Selector) func(Object) bool {
	if empty(l) && emptyFields(f) {
		return func(Object) bool { return true }
	}
	return func(o Object) bool {
		if !empty(l) && !l.Matches(labels.Set(o.GetLabels())) {
			return false
		}
		return emptyFields(f) || f.Matches(fieldSet(res, o))
	}
}

func fieldSet(res *resource.Resource, o Object) fields.Set {
	set := fields.Set{"metadata.name": o.GetName()}
	if res.Namespaced {
		set["metadata.namespace"] = o.GetNamespace()
	}
	if res.Rules().Fields != nil {
		for k, v := range res.Rules().Fields(o) {
			set[k] = v
		}
	}
	return set
}
