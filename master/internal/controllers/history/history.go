package history

import (
	"cmp"
	"slices"
	"strings"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/whalepod/whalepod/master/internal/controllers/podstate"
	"github.com/whalepod/whalepod/master/internal/registry"
)

// Owner is whose templates are kept.
type Owner struct {
	// Object is the StatefulSet or DaemonSet as it is stored.
	Object metav1.Object
	Kind   schema.GroupVersionKind
	// Selector picks orphaned revisions, by their labels, which are those of the template that they hold.
	Selector labels.Selector
	Template *corev1.PodTemplateSpec
	// Collisions is the status's collisionCount; nil counts as 0.
	Collisions *int32
	// HashLabel is the label of a revision that carries its hash; a StatefulSet's and a DaemonSet's differ.
	HashLabel string
}

// History is the revisions of one owner and what a turn changes about them.
type History struct {
	// Revisions are the owner's, oldest first, without those that Truncate or Remove took. Some are stored objects, which
	// nobody may change.
	Revisions []*appsv1.ControllerRevision
	// Current is the revision of the owner's template; nil before Resolve, and for an owner that is being deleted and
	// has none.
	Current *appsv1.ControllerRevision
	// Equal are all revisions with that template, oldest first; adopted ones may be doubles. Current is the last of them.
	Equal []*appsv1.ControllerRevision
	// Collisions belongs into the owner's status: how often a new revision's name was taken by another template's.
	Collisions int32

	owner   Owner
	named   func(name string) *appsv1.ControllerRevision
	created *appsv1.ControllerRevision
	changed map[string]*appsv1.ControllerRevision // by name: copies to be put
	removed []*appsv1.ControllerRevision
}

// Read finds the revisions that are the owner's, and orphans that its selector wants, which Write adopts.
func Read(v registry.Viewer, o Owner) *History {
	h := &History{owner: o, changed: map[string]*appsv1.ControllerRevision{}}
	if o.Collisions != nil {
		h.Collisions = *o.Collisions
	}
	namespace := o.Object.GetNamespace()
	h.named = func(name string) *appsv1.ControllerRevision {
		r, err := registry.Get[*appsv1.ControllerRevision](v, namespace, name)
		if err != nil {
			return nil
		}
		return r
	}
	for r := range registry.ByIndex[*appsv1.ControllerRevision](v, registry.IndexOwner, string(o.Object.GetUID())) {
		if r.Namespace == namespace {
			h.claim(r)
		}
	}
	for r := range registry.ByIndex[*appsv1.ControllerRevision](v, registry.IndexOrphan, namespace) {
		h.claim(r)
	}
	h.sort()
	return h
}

// claim takes a revision in. An owner's revision stays its own whatever its labels say: a rollback may need it.
func (h *History) claim(r *appsv1.ControllerRevision) {
	if ref := metav1.GetControllerOfNoCopy(r); ref != nil {
		if ref.UID == h.owner.Object.GetUID() && r.DeletionTimestamp == nil {
			h.Revisions = append(h.Revisions, r)
		}
		return
	}
	if podstate.ClaimOf(h.owner.Object, r, h.owner.Selector) != podstate.Adopt {
		return
	}
	r = h.change(r)
	podstate.SetController(r, h.owner.Object, h.owner.Kind)
}

// change gives a copy of a revision that Write puts, in the place of the one in Revisions.
func (h *History) change(r *appsv1.ControllerRevision) *appsv1.ControllerRevision {
	if h.changed[r.Name] == nil {
		h.changed[r.Name] = r.DeepCopy()
		if i := slices.Index(h.Revisions, r); i >= 0 {
			h.Revisions[i] = h.changed[r.Name]
		} else {
			h.Revisions = append(h.Revisions, h.changed[r.Name])
		}
	}
	return h.changed[r.Name]
}

func (h *History) sort() {
	slices.SortStableFunc(h.Revisions, func(a, b *appsv1.ControllerRevision) int {
		return cmp.Or(cmp.Compare(a.Revision, b.Revision), a.CreationTimestamp.Compare(b.CreationTimestamp.Time), strings.Compare(a.Name, b.Name))
	})
}

// Resolve finds the revision of the owner's template. A template that comes back gets the highest number again; one that was
// never seen gets a new revision, unless the owner is being deleted.
func (h *History) Resolve() error {
	data, err := encode(h.owner.Template)
	if err != nil {
		return err
	}
	h.Equal = h.Equal[:0]
	for _, r := range h.Revisions {
		if holds(r, h.owner.Template, data) {
			h.Equal = append(h.Equal, r)
		}
	}
	deleting := h.owner.Object.GetDeletionTimestamp() != nil
	if n := len(h.Equal); n > 0 {
		last := h.Revisions[len(h.Revisions)-1]
		h.Current = h.Equal[n-1]
		if h.Current != last && !deleting {
			h.Current = h.change(h.Current)
			h.Current.Revision = last.Revision + 1
			h.Equal[n-1] = h.Current
			h.sort()
		}
		return nil
	}
	if !deleting {
		h.create(data)
	}
	return nil
}

func (h *History) create(data []byte) {
	next := int64(1)
	if n := len(h.Revisions); n > 0 {
		next = h.Revisions[n-1].Revision + 1
	}
	r := &appsv1.ControllerRevision{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: h.owner.Object.GetNamespace(), Labels: map[string]string{}, Annotations: map[string]string{},
			OwnerReferences: []metav1.OwnerReference{*metav1.NewControllerRef(h.owner.Object, h.owner.Kind)},
		},
		Data: runtime.RawExtension{Raw: data}, Revision: next,
	}
	for k, v := range h.owner.Template.Labels {
		r.Labels[k] = v
	}
	// All of them, as upstream: kubernetes.io/change-cause is what `rollout history` shows.
	for k, v := range h.owner.Object.GetAnnotations() {
		r.Annotations[k] = v
	}
	hash := hashOf(data, h.Collisions)
	for h.named(nameOf(h.owner.Object.GetName(), hash)) != nil {
		// Somebody else's, or one of ours with another template.
		h.Collisions++
		hash = hashOf(data, h.Collisions)
	}
	r.Name = nameOf(h.owner.Object.GetName(), hash)
	r.Labels[h.owner.HashLabel] = hash
	h.created, h.Current = r, r
	h.Revisions = append(h.Revisions, r)
	h.Equal = append(h.Equal, r)
}

// Named gives one of the owner's revisions, or nil.
func (h *History) Named(name string) *appsv1.ControllerRevision {
	for _, r := range h.Revisions {
		if r.Name == name {
			return r
		}
	}
	return nil
}

// Relabel sets a label of one of Revisions and gives what is there instead of it now.
func (h *History) Relabel(r *appsv1.ControllerRevision, key, value string) *appsv1.ControllerRevision {
	if r.Labels[key] == value {
		return r
	}
	old := r
	if r != h.created {
		r = h.change(r)
	}
	if r.Labels == nil {
		r.Labels = map[string]string{}
	}
	r.Labels[key] = value
	if h.Current == old {
		h.Current = r
	}
	if i := slices.Index(h.Equal, old); i >= 0 {
		h.Equal[i] = r
	}
	return r
}

// Remove takes one of Revisions away.
func (h *History) Remove(r *appsv1.ControllerRevision) {
	same := func(o *appsv1.ControllerRevision) bool { return o == r }
	h.Revisions, h.Equal = slices.DeleteFunc(h.Revisions, same), slices.DeleteFunc(h.Equal, same)
	delete(h.changed, r.Name)
	if r == h.created {
		h.created = nil
		return
	}
	h.removed = append(h.removed, r)
}

// Truncate removes the oldest revisions beyond limit (the owner's revisionHistoryLimit; nil is 10, a negative one keeps all)
// among those that are neither live nor the current one, which do not count.
func (h *History) Truncate(limit *int32, live func(*appsv1.ControllerRevision) bool) {
	keep := 10 // Kubernetes' default
	if limit != nil {
		keep = int(*limit)
	}
	if keep < 0 || h.owner.Object.GetDeletionTimestamp() != nil {
		return
	}
	var past []*appsv1.ControllerRevision
	for _, r := range h.Revisions {
		if r != h.Current && !live(r) {
			past = append(past, r)
		}
	}
	for len(past) > keep {
		h.Remove(past[0])
		past = past[1:]
	}
}

// Idle says that Write has nothing to do.
func (h *History) Idle() bool { return h.created == nil && len(h.changed)+len(h.removed) == 0 }

// Write stores what has changed.
func (h *History) Write(tx *registry.Tx) error {
	for _, r := range h.removed {
		if err := tx.Delete(r, registry.DeleteOptions{}); err != nil {
			return err
		}
	}
	for _, r := range h.changed {
		if _, err := registry.Put(tx, r); err != nil {
			return err
		}
	}
	if h.created == nil {
		return nil
	}
	_, err := registry.Create(tx, h.created)
	return err
}
