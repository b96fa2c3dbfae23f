package persistentvolume

import (
	"context"
	"fmt"
	"iter"
	"log/slog"
	"path"
	"time"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/whalepod/whalepod/master/internal/controller"
	"github.com/whalepod/whalepod/master/internal/registry"
	"github.com/whalepod/whalepod/scheduler"
)

const (
	component = "persistentvolume-controller"
	claims    = "persistentvolumeclaims"
	volumes   = "persistentvolumes"
	classes   = "storageclasses.storage.k8s.io"
	// removeTimeout bounds the deletion of one volume's data; a large one is gone on with at the next turn.
	removeTimeout = time.Minute
)

// Remover deletes the data of local volumes.
type Remover interface {
	// RemoveVolume deletes a directory below the one where the node keeps its volumes. One that is not there is no error.
	RemoveVolume(ctx context.Context, node, dir string) error
}

// Config of the controller.
type Config struct {
	Registry *registry.Registry
	Logger   *slog.Logger
	Remover  Remover
}

// Controller brings claims and volumes together.
type Controller struct {
	cfg  Config
	loop *controller.Loop
}

// New makes the controller; Run starts it.
func New(cfg Config) *Controller {
	c := &Controller{cfg: cfg}
	c.loop = controller.New(controller.Config{
		Name: component, Registry: cfg.Registry, Logger: cfg.Logger,
		Watch: []string{claims, volumes, classes, "pods"}, Keys: c.keys, All: all, Reconcile: c.reconcile, Workers: 2,
	})
	return c
}

// Run works until ctx ends.
func (c *Controller) Run(ctx context.Context) error { return c.loop.Run(ctx) }

func claimKey(namespace, name string) controller.Key {
	return controller.Key{Resource: claims, Namespace: namespace, Name: name}
}

func volumeKey(name string) controller.Key { return controller.Key{Resource: volumes, Name: name} }

func all(v *registry.View, add func(controller.Key)) {
	for claim := range registry.List[*corev1.PersistentVolumeClaim](v, "") {
		add(claimKey(claim.Namespace, claim.Name))
	}
	for volume := range registry.List[*corev1.PersistentVolume](v, "") {
		add(volumeKey(volume.Name))
	}
	for pod := range registry.List[*corev1.Pod](v, "") {
		if ephemeral(pod) {
			add(controller.Key{Resource: "pods", Namespace: pod.Namespace, Name: pod.Name})
		}
	}
}

func (c *Controller) keys(v *registry.View, e registry.Event, add func(controller.Key)) {
	switch o := e.Object.(type) {
	case *corev1.PersistentVolumeClaim:
		add(e.Key)
		if o.Spec.VolumeName != "" {
			add(volumeKey(o.Spec.VolumeName))
		}
	case *corev1.PersistentVolume:
		add(e.Key)
		if ref := o.Spec.ClaimRef; ref != nil {
			add(claimKey(ref.Namespace, ref.Name))
		} else if !e.Deleted {
			unbound(v, add, func(claim *corev1.PersistentVolumeClaim) bool {
				return scheduler.ClassOf(claim) == scheduler.ClassOfVolume(o)
			})
		}
	case *storagev1.StorageClass:
		unbound(v, add, func(claim *corev1.PersistentVolumeClaim) bool {
			return scheduler.ClassOf(claim) == o.Name || claim.Spec.StorageClassName == nil
		})
	case *corev1.Pod:
		podKeys(e, o, add)
	}
}

func unbound(v *registry.View, add func(controller.Key), which func(*corev1.PersistentVolumeClaim) bool) {
	for claim := range registry.List[*corev1.PersistentVolumeClaim](v, "") {
		if !has(&claim.ObjectMeta, annBindCompleted) && which(claim) {
			add(claimKey(claim.Namespace, claim.Name))
		}
	}
}

// podKeys: a pod that went may have been the last that used a claim; one that came may need claims of its own.
func podKeys(e registry.Event, pod *corev1.Pod, add func(controller.Key)) {
	for i := range pod.Spec.Volumes {
		name, own := claimName(pod, &pod.Spec.Volumes[i])
		switch {
		case name == "":
		case e.Deleted:
			add(claimKey(pod.Namespace, name))
		case own && pod.Spec.NodeName == "":
			add(e.Key)
		}
	}
}

// claimName of a volume, empty if it is none of a claim; own when the claim is made for this pod.
func claimName(pod *corev1.Pod, v *corev1.Volume) (name string, own bool) {
	switch {
	case v.PersistentVolumeClaim != nil:
		return v.PersistentVolumeClaim.ClaimName, false
	case v.Ephemeral != nil:
		return pod.Name + "-" + v.Name, true
	}
	return "", false
}

func (c *Controller) reconcile(ctx context.Context, key controller.Key) (time.Duration, error) {
	var err error
	switch key.Resource {
	case claims:
		err = c.claim(ctx, key)
	case volumes:
		err = c.volume(ctx, key)
	default:
		err = c.pod(ctx, key)
	}
	if apierrors.IsNotFound(err) || apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause) {
		return 0, nil
	}
	return 0, err
}

func (c *Controller) claim(ctx context.Context, key controller.Key) error {
	var o outcome
	var claim *corev1.PersistentVolumeClaim
	look := func(v registry.Viewer) error {
		w, err := worldOf(v, key)
		if err == nil {
			claim, o = w.claim, planClaim(w)
		}
		return err
	}
	err := c.cfg.Registry.View(func(v *registry.View) error { return look(v) })
	if err != nil {
		return err
	}
	if due(o, claim) || o.volume != nil {
		err = c.cfg.Registry.Transact(ctx, func(tx *registry.Tx) error {
			if err := look(tx); err != nil {
				return err
			}
			if err := writeVolume(tx, o); err != nil {
				return err
			}
			return writeClaim(tx, o.claim, claim)
		})
	}
	if err == nil {
		for _, n := range o.notes {
			c.cfg.Registry.Record(claim, n.kind, n.reason, n.message, component)
		}
	}
	return err
}

// due says that the claim itself is to be written.
func due(o outcome, claim *corev1.PersistentVolumeClaim) bool {
	return !apiequality.Semantic.DeepEqual(o.claim, claim)
}

func worldOf(v registry.Viewer, key controller.Key) (world, error) {
	claim, err := registry.Get[*corev1.PersistentVolumeClaim](v, key.Namespace, key.Name)
	if err != nil {
		return world{}, err
	}
	w := world{
		claim:    claim,
		volumes:  registry.List[*corev1.PersistentVolume](v, ""),
		volume:   func(name string) *corev1.PersistentVolume { return find[*corev1.PersistentVolume](v, name) },
		node:     func(name string) *corev1.Node { return find[*corev1.Node](v, name) },
		fallback: registry.DefaultStorageClass(v),
	}
	if class := scheduler.ClassOf(claim); class != "" {
		w.class = find[*storagev1.StorageClass](v, class)
	}
	if claim.DeletionTimestamp != nil {
		w.used = used(registry.List[*corev1.Pod](v, claim.Namespace), claim)
	}
	return w, nil
}

// find gives nil for what is not there; objects of these kinds have no namespace.
func find[T registry.Object](v registry.Viewer, name string) T {
	o, err := registry.Get[T](v, "", name)
	if err != nil {
		var none T
		return none
	}
	return o
}

// used: pods that no node has been chosen for yet do not hold a claim (pvc-protection's rule).
func used(pods iter.Seq[*corev1.Pod], claim *corev1.PersistentVolumeClaim) bool {
	for pod := range pods {
		for i := range pod.Spec.Volumes {
			if name, own := claimName(pod, &pod.Spec.Volumes[i]); name == claim.Name && pod.Spec.NodeName != "" && (!own || metav1.IsControlledBy(claim, pod)) {
				return true
			}
		}
	}
	return false
}

func writeVolume(tx *registry.Tx, o outcome) error {
	switch {
	case o.volume == nil:
		return nil
	case !o.made:
		return write(tx, o.volume, func(next *corev1.PersistentVolume) { next.Status = o.volume.Status })
	}
	made, err := registry.Create(tx, o.volume.DeepCopy())
	if err != nil {
		return err
	}
	made = made.DeepCopy()
	made.Status.Phase = corev1.VolumeBound
	_, err = registry.PutStatus(tx, made)
	return err
}

func writeClaim(tx *registry.Tx, claim, old *corev1.PersistentVolumeClaim) error {
	if apiequality.Semantic.DeepEqual(claim, old) {
		return nil
	}
	return write(tx, claim, func(next *corev1.PersistentVolumeClaim) { next.Status = claim.Status })
}

// write replaces an object and then its status; what is the same already costs nothing. An object that is gone with its last
// finalizer has no status to write.
func write[T registry.Object](tx *registry.Tx, obj T, status func(T)) error {
	next, err := registry.Put(tx, obj.DeepCopyObject().(T))
	if err != nil {
		return err
	}
	if obj.GetDeletionTimestamp() != nil && len(obj.GetFinalizers()) == 0 {
		return nil
	}
	next = next.DeepCopyObject().(T)
	status(next)
	_, err = registry.PutStatus(tx, next)
	return err
}

func (c *Controller) volume(ctx context.Context, key controller.Key) error {
	var old, next *corev1.PersistentVolume
	var remove bool
	var notes []note
	look := func(v registry.Viewer) (err error) {
		if old, err = registry.Get[*corev1.PersistentVolume](v, "", key.Name); err != nil {
			return err
		}
		var claim *corev1.PersistentVolumeClaim
		if ref := old.Spec.ClaimRef; ref != nil {
			if claim, err = registry.Get[*corev1.PersistentVolumeClaim](v, ref.Namespace, ref.Name); err != nil {
				claim = nil
			}
		}
		next, remove, notes = planVolume(old, claim)
		return nil
	}
	err := c.cfg.Registry.View(func(v *registry.View) error { return look(v) })
	if err == nil && !apiequality.Semantic.DeepEqual(old, next) {
		err = c.cfg.Registry.Transact(ctx, func(tx *registry.Tx) error {
			if err := look(tx); err != nil {
				return err
			}
			return write(tx, next, func(v *corev1.PersistentVolume) { v.Status = next.Status })
		})
	}
	if err != nil {
		return err
	}
	for _, n := range notes {
		c.cfg.Registry.Record(old, n.kind, n.reason, n.message, component)
	}
	if remove {
		return c.remove(ctx, key, next)
	}
	return nil
}

// remove deletes the data of a released volume, then the volume. The data go first: as long as the volume is there somebody
// looks after them.
func (c *Controller) remove(ctx context.Context, key controller.Key, volume *corev1.PersistentVolume) error {
	node, known := "", false
	err := c.cfg.Registry.View(func(v *registry.View) error {
		for n := range registry.List[*corev1.Node](v, "") {
			if scheduler.Reachable(volume, n) {
				node, known = n.Name, true
				break
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	if known && volume.Spec.Local != nil { // a node that was taken out of the cluster took its disk along
		ctx, cancel := context.WithTimeout(ctx, removeTimeout)
		defer cancel()
		if err := c.cfg.Remover.RemoveVolume(ctx, node, path.Base(volume.Spec.Local.Path)); err != nil {
			c.cfg.Registry.Record(volume, corev1.EventTypeWarning, "VolumeFailedDelete", err.Error(), component)
			return fmt.Errorf("data of volume %s on node %s: %w", volume.Name, node, err)
		}
	}
	return c.cfg.Registry.Transact(ctx, func(tx *registry.Tx) error {
		cur, err := registry.Get[*corev1.PersistentVolume](tx, "", key.Name)
		if err != nil || cur.UID != volume.UID {
			return err
		}
		cur = cur.DeepCopy()
		unprotect(cur)
		if cur, err = registry.Put(tx, cur); err != nil || cur.DeletionTimestamp != nil {
			return err // with its last finalizer it is gone
		}
		return tx.Delete(cur, registry.DeleteOptions{})
	})
}

// pod makes the claims of a pod's ephemeral volumes.
func (c *Controller) pod(ctx context.Context, key controller.Key) error {
	var pod *corev1.Pod
	conflict := ""
	err := c.cfg.Registry.Transact(ctx, func(tx *registry.Tx) (err error) {
		if pod, err = registry.Get[*corev1.Pod](tx, key.Namespace, key.Name); err != nil || pod.DeletionTimestamp != nil {
			return err
		}
		conflict, err = makeClaims(tx, pod)
		return err
	})
	if err == nil && conflict != "" {
		c.cfg.Registry.Record(pod, corev1.EventTypeWarning, "ClaimCreationFailed", conflict, "ephemeral_volume")
	}
	return err
}
