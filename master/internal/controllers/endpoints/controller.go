package endpoints

import (
	"context"
	"log/slog"
	"maps"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"

	"github.com/whalepod/whalepod/master/internal/controller"
	"github.com/whalepod/whalepod/master/internal/controllers/podstate"
	"github.com/whalepod/whalepod/master/internal/registry"
)

const (
	component = "endpoints-controller"
	workers   = 2
	// leaderElection marks Endpoints that old leader election keeps for itself.
	leaderElection = "control-plane.alpha.kubernetes.io/leader"
)

// Config of the controller.
type Config struct {
	Registry *registry.Registry
	Logger   *slog.Logger
}

// Controller keeps Endpoints and EndpointSlices.
type Controller struct {
	registry *registry.Registry
	loop     *controller.Loop
	written  written
}

// New makes the controller; Run starts it.
func New(cfg Config) *Controller {
	c := &Controller{registry: cfg.Registry}
	c.loop = controller.New(controller.Config{
		Name: component, Registry: cfg.Registry, Logger: cfg.Logger, Workers: workers,
		Watch: []string{"services", "pods", "endpoints", "endpointslices.discovery.k8s.io", "nodes"},
		Keys:  c.keys, All: c.all, Reconcile: c.reconcile,
	})
	return c
}

// Run works until ctx ends.
func (c *Controller) Run(ctx context.Context) error { return c.loop.Run(ctx) }

func keyOf(namespace, name string) controller.Key {
	return controller.Key{Resource: "services", Namespace: namespace, Name: name}
}

func (c *Controller) all(v *registry.View, add func(controller.Key)) {
	c.written.reset()
	for svc := range registry.List[*corev1.Service](v, "") {
		add(keyOf(svc.Namespace, svc.Name))
	}
	// Those whose Service went while nobody looked.
	for ep := range registry.List[*corev1.Endpoints](v, "") {
		if ep.Labels[labelManagedBy] == managedBy {
			add(keyOf(ep.Namespace, ep.Name))
		}
	}
}

func (c *Controller) keys(v *registry.View, e registry.Event, add func(controller.Key)) {
	switch obj := e.Object.(type) {
	case *corev1.Service:
		add(e.Key)
	case *corev1.Pod:
		before, _ := e.Prev.(*corev1.Pod)
		if !e.Deleted && before != nil && !matters(before, obj) {
			return
		}
		sets := []map[string]string{obj.Labels}
		if before != nil {
			sets = append(sets, before.Labels)
		}
		servicesOf(v, obj.Namespace, add, sets...)
	case *corev1.Endpoints:
		svc, err := registry.Get[*corev1.Service](v, obj.Namespace, obj.Name)
		if err == nil && (e.Deleted || len(svc.Spec.Selector) == 0) {
			add(keyOf(obj.Namespace, obj.Name))
		}
	case *discoveryv1.EndpointSlice:
		before, _ := e.Prev.(*discoveryv1.EndpointSlice)
		if c.written.heard(e) || !e.Deleted && before != nil && sameSlice(before, obj) {
			return
		}
		// Of others: come, gone, edited, named after another Service, or taken away from this controller. Nodes believe what a slice
		// says, so it is put right at once.
		for _, s := range []*discoveryv1.EndpointSlice{before, obj} {
			if s != nil && own(s) {
				add(keyOf(s.Namespace, s.Labels[discoveryv1.LabelServiceName]))
			}
		}
	case *corev1.Node:
		before, _ := e.Prev.(*corev1.Node)
		if e.Deleted || before == nil || !sameProcessors(before, obj) {
			for svc := range registry.List[*corev1.Service](v, "") {
				if topologyAware(svc) {
					add(keyOf(svc.Namespace, svc.Name))
				}
			}
		}
		if before != nil && before.Labels[corev1.LabelTopologyZone] != obj.Labels[corev1.LabelTopologyZone] {
			for pod := range registry.ByIndex[*corev1.Pod](v, registry.IndexNode, obj.Name) {
				servicesOf(v, pod.Namespace, add, pod.Labels)
			}
		}
	}
}

// servicesOf adds the Services that select one of the sets of labels.
func servicesOf(v *registry.View, namespace string, add func(controller.Key), sets ...map[string]string) {
	for svc := range registry.List[*corev1.Service](v, namespace) {
		if len(svc.Spec.Selector) == 0 {
			continue
		}
		selector := labels.Set(svc.Spec.Selector).AsSelectorPreValidated()
		if slices.ContainsFunc(sets, func(set map[string]string) bool { return selector.Matches(labels.Set(set)) }) {
			add(keyOf(svc.Namespace, svc.Name))
		}
	}
}

// matters says whether a pod's change can be seen in endpoints.
func matters(before, after *corev1.Pod) bool {
	return before.Status.PodIP != after.Status.PodIP || podstate.Ready(before) != podstate.Ready(after) ||
		podstate.Ended(before) != podstate.Ended(after) ||
		(before.DeletionTimestamp == nil) != (after.DeletionTimestamp == nil) ||
		before.Spec.NodeName != after.Spec.NodeName ||
		!maps.Equal(before.Labels, after.Labels)
}

// writes are what one turn has to write.
type writes struct {
	create, update, remove *corev1.Endpoints
	slices                 changes
	// Of Endpoints that are mirrored: addresses that are not.
	mirror           *corev1.Endpoints
	invalid, skipped int
	// Of a topology-aware Service: why it has no hints, or that it has got some.
	service *corev1.Service
	problem string
}

func (w *writes) empty() bool {
	return w.create == nil && w.update == nil && w.remove == nil && w.slices.empty()
}

func (c *Controller) reconcile(ctx context.Context, key controller.Key) (time.Duration, error) {
	var w *writes
	err := c.registry.View(func(v *registry.View) (err error) {
		w, err = look(v, key)
		return err
	})
	if err != nil {
		return 0, err
	}
	c.tell(w)
	if w.empty() {
		return 0, nil
	}
	err = c.write(ctx, w)
	if apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause) {
		return 0, nil
	}
	return 0, err // NotFound, too: the object went meanwhile, and the next look will see it
}

// write does what was found outside the transaction in one, since listing pods must not hold up other writers. A pod that
// changes meanwhile has its event, which brings the Service back; objects that change meanwhile are conflicts.
func (c *Controller) write(ctx context.Context, w *writes) error {
	var noted []types.UID
	err := c.registry.Transact(ctx, func(tx *registry.Tx) error {
		c.written.forget(noted) // of an attempt before
		noted = noted[:0]
		return w.apply(tx, func(s *discoveryv1.EndpointSlice) {
			c.written.note(s)
			noted = append(noted, s.UID)
		})
	})
	if err != nil {
		c.written.forget(noted)
	}
	return err
}

// look compares what is with what should be.
func look(v registry.Viewer, key controller.Key) (*writes, error) {
	w := &writes{}
	old, err := registry.Get[*corev1.Endpoints](v, key.Namespace, key.Name)
	if err != nil {
		if !apierrors.IsNotFound(err) {
			return nil, err
		}
		old = nil
	}
	svc, err := registry.Get[*corev1.Service](v, key.Namespace, key.Name)
	if apierrors.IsNotFound(err) {
		// The slices go with their owner.
		if old != nil && old.Annotations[leaderElection] == "" && old.DeletionTimestamp == nil {
			w.remove = old
		}
		return w, nil
	}
	if err != nil || svc.DeletionTimestamp != nil || svc.Spec.Type == corev1.ServiceTypeExternalName {
		return w, err
	}
	if len(svc.Spec.Selector) == 0 {
		w.mirrors(v, svc, old)
		return w, nil
	}
	groups := fromPods(svc, podsOf(v, svc), func(node string) string {
		n, err := registry.Get[*corev1.Node](v, "", node)
		if err != nil {
			return ""
		}
		return n.Labels[corev1.LabelTopologyZone]
	})
	existing, strays := slicesOf(v, svc, old)
	if topologyAware(svc) {
		w.hints(v, svc, groups, existing)
	}
	w.slices = planSlices(ownHeader(svc), groups, existing, true)
	w.slices.remove = append(w.slices.remove, strays...)
	w.create, w.update = planEndpoints(svc, groups, old)
	return w, nil
}

// hints of a topology-aware Service, and what is to be told about them.
func (w *writes) hints(v registry.Viewer, svc *corev1.Service, groups []*group, existing []*discoveryv1.EndpointSlice) {
	w.service = svc
	if w.problem = hintZones(groups, processors(v)); w.problem == "" && !hinted(existing) {
		w.problem = topologyEnabled
	}
}

func podsOf(v registry.Viewer, svc *corev1.Service) []*corev1.Pod {
	selector := labels.Set(svc.Spec.Selector).AsSelectorPreValidated()
	var pods []*corev1.Pod
	for pod := range registry.List[*corev1.Pod](v, svc.Namespace) {
		if selector.Matches(labels.Set(pod.Labels)) {
			pods = append(pods, pod)
		}
	}
	return pods
}

func planEndpoints(svc *corev1.Service, groups []*group, old *corev1.Endpoints) (create, update *corev1.Endpoints) {
	want := &corev1.Endpoints{ObjectMeta: metav1.ObjectMeta{Namespace: svc.Namespace, Name: svc.Name}}
	if old != nil {
		want = old.DeepCopy()
	}
	want.Labels = endpointsLabels(svc)
	var cut bool
	want.Subsets, cut = subsets(svc, groups)
	delete(want.Annotations, overCapacity)
	if cut {
		metav1.SetMetaDataAnnotation(&want.ObjectMeta, overCapacity, truncated)
	}
	switch {
	case old == nil:
		return want, nil
	case !apiequality.Semantic.DeepEqual(old, want):
		return nil, want
	}
	return nil, nil
}

// apply writes copies, since a transaction may run again from the start. wrote is called with each slice as it is then.
func (w *writes) apply(tx *registry.Tx, wrote func(*discoveryv1.EndpointSlice)) error {
	for _, s := range w.slices.update {
		s, err := registry.Put(tx, s.DeepCopy())
		if err != nil {
			return err
		}
		wrote(s)
	}
	for _, s := range w.slices.create {
		s, err := registry.Create(tx, s.DeepCopy())
		if err != nil {
			return err
		}
		wrote(s)
	}
	for _, s := range w.slices.remove {
		if err := tx.Delete(s, registry.DeleteOptions{}); err != nil && !apierrors.IsNotFound(err) {
			return err
		}
	}
	var err error
	switch {
	case w.create != nil:
		_, err = registry.Create(tx, w.create.DeepCopy())
	case w.update != nil:
		_, err = registry.Put(tx, w.update.DeepCopy())
	case w.remove != nil:
		err = tx.Delete(w.remove, registry.DeleteOptions{})
	}
	return err
}
