package registry

import (
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	apiresource "k8s.io/apimachinery/pkg/api/resource"

	"github.com/whalepod/whalepod/api/resource"
)

// Quotas are kept by the transactions that use them: each write that changes what its object uses changes status.used of the
// namespace's quotas with it, so no two writers can overdraw one, and a write costs the same however many objects there are.
// Only what time alone changes, and statuses that somebody else wrote, are left to the controller.

// charged is a quota with what a write makes of it.
type charged struct {
	quota         *corev1.ResourceQuota
	names         []corev1.ResourceName
	before, after corev1.ResourceList
}

// charge computes what the namespace's quotas become when obj is written over old (nil on creation; obj is nil on deletion),
// or refuses. The caller writes the object, then settles: an object that is not written costs nothing.
func (r *Registry) charge(tx *Tx, res *resource.Resource, obj, old Object) ([]*corev1.ResourceQuota, error) {
	if !res.Namespaced {
		return nil, nil
	}
	subject := obj
	if subject == nil {
		subject = old
	}
	all, enforce := r.concerned(tx, res, subject, obj, old), enforced(obj, old)
	forbidden := func(format string, args ...any) error {
		return apierrors.NewForbidden(res.GroupResource(), subject.GetName(), errorf(format, args...))
	}
	for _, c := range all {
		if !enforce || c.after == nil {
			continue
		}
		if pod, ok := obj.(*corev1.Pod); ok {
			if err := unspecified(pod, c.names); err != nil {
				return nil, forbidden("failed quota: %s: %w", c.quota.Name, err)
			}
		}
		if slices.ContainsFunc(c.names, func(n corev1.ResourceName) bool { _, ok := c.quota.Status.Used[n]; return !ok }) {
			return nil, forbidden("status unknown for quota: %s, resources: %s", c.quota.Name, joined(c.names))
		}
	}
	var out []*corev1.ResourceQuota
	for _, c := range all {
		delta := c.delta()
		if len(delta) == 0 {
			continue
		}
		next := c.quota.DeepCopy()
		if over := spend(next, delta); enforce && len(over) > 0 {
			return nil, forbidden("exceeded quota: %s, requested: %s, used: %s, limited: %s",
				c.quota.Name, printed(delta, over), printed(c.quota.Status.Used, over), printed(c.quota.Status.Hard, over))
		}
		out = append(out, next)
	}
	return out, nil
}

// concerned finds the quotas that limit something of which the object uses or used some.
func (r *Registry) concerned(tx *Tx, res *resource.Resource, subject, obj, old Object) (all []charged) {
	now := time.Now()
	for q := range List[*corev1.ResourceQuota](tx, subject.GetNamespace()) {
		if q.UID == subject.GetUID() {
			continue // counts itself when it is made, and is gone when it goes
		}
		c := charged{quota: q}
		for _, name := range sortedNames(q.Status.Hard) {
			if r.quotaResource(name) == res.Key() {
				c.names = append(c.names, name)
			}
		}
		if len(c.names) == 0 {
			continue
		}
		if old != nil && inScope(q, old) {
			c.before = usageOf(res.Key(), old, now)
		}
		if obj != nil && inScope(q, obj) {
			c.after = usageOf(res.Key(), obj, now)
		}
		if c.before != nil || c.after != nil {
			all = append(all, c)
		}
	}
	return all
}

// enforced says whether a write may be refused for what it uses: those that say what is wanted, not what has come about.
func enforced(obj, old Object) bool {
	if obj == nil || old == nil {
		return obj != nil
	}
	switch o := obj.(type) {
	case *corev1.Pod:
		before := old.(*corev1.Pod)
		return hasDeadline(o) != hasDeadline(before) || o.Generation != before.Generation && !sameResources(&o.Spec, &before.Spec)
	case *corev1.PersistentVolumeClaim:
		return !apiequality.Semantic.DeepEqual(o.Spec, old.(*corev1.PersistentVolumeClaim).Spec)
	case *corev1.Service:
		return true
	}
	return false
}

// delta is by how much the limited names change.
func (c charged) delta() corev1.ResourceList {
	delta := corev1.ResourceList{}
	for _, name := range c.names {
		q := c.after[name].DeepCopy()
		q.Sub(c.before[name])
		if !q.IsZero() {
			delta[name] = q
		}
	}
	return delta
}

// spend adds delta to what is used and returns the names that grew beyond what the quota grants. Names of which it is not known
// how much is used stay unknown.
func spend(q *corev1.ResourceQuota, delta corev1.ResourceList) (over []corev1.ResourceName) {
	for _, name := range sortedNames(delta) {
		used, known := q.Status.Used[name]
		if !known {
			continue
		}
		change := delta[name]
		used.Add(change)
		if used.Sign() < 0 {
			used = apiresource.Quantity{Format: used.Format}
		}
		q.Status.Used[name] = used
		if change.Sign() > 0 && used.Cmp(q.Status.Hard[name]) > 0 {
			over = append(over, name)
		}
	}
	return over
}

// settle writes quotas that charge gave.
func (tx *Tx) settle(quotas []*corev1.ResourceQuota) error {
	res := resourceFor[*corev1.ResourceQuota](&tx.View)
	for _, q := range quotas {
		if err := statusError(tx.tx.Put(keyOf(res, q.Namespace, q.Name), q), res, q.Name); err != nil {
			return err
		}
	}
	return nil
}

// admitQuota counts anew for a quota that is new or grants something else.
func admitQuota(v Viewer, q *corev1.ResourceQuota, old Object) {
	if before, ok := old.(*corev1.ResourceQuota); ok && apiequality.Semantic.DeepEqual(q.Spec, before.Spec) {
		return
	}
	q.Status = QuotaStatus(v, q)
}

// QuotaStatus counts what a quota's namespace uses. It walks all objects that the quota is about.
func QuotaStatus(vr Viewer, q *corev1.ResourceQuota) corev1.ResourceQuotaStatus {
	v := vr.view()
	status := corev1.ResourceQuotaStatus{Hard: q.Spec.Hard.DeepCopy(), Used: corev1.ResourceList{}}
	names := map[string][]corev1.ResourceName{}
	for name := range q.Spec.Hard {
		if res := v.r.quotaResource(name); res != "" {
			names[res] = append(names[res], name)
			status.Used[name] = apiresource.Quantity{Format: apiresource.DecimalSI}
		}
	}
	now := time.Now()
	for res, names := range names {
		add := func(obj Object) {
			if !inScope(q, obj) {
				return
			}
			usage := usageOf(res, obj, now)
			for _, name := range names {
				used := status.Used[name]
				used.Add(usage[name])
				status.Used[name] = used
			}
		}
		if _, served := v.r.cfg.Table.ByKey(res); served {
			for obj := range v.Reader.List(res, q.Namespace, Key{}) {
				add(obj)
			}
		}
		if res != "resourcequotas" {
			continue
		}
		if _, err := Get[*corev1.ResourceQuota](v, q.Namespace, q.Name); apierrors.IsNotFound(err) {
			add(q) // it is about to be made
		}
	}
	return status
}

func printed(list corev1.ResourceList, names []corev1.ResourceName) string {
	parts := make([]string, 0, len(names))
	for _, name := range names {
		q := list[name]
		parts = append(parts, string(name)+"="+q.String())
	}
	return strings.Join(parts, ",")
}

func joined(names []corev1.ResourceName) string {
	parts := make([]string, 0, len(names))
	for _, name := range names {
		parts = append(parts, string(name))
	}
	return strings.Join(parts, ",")
}
