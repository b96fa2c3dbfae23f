package deployment

import (
	"maps"
	"strconv"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
)

// rollback carries out what clients of extensions/v1beta1 and apps/v1beta1 ask for by spec.rollbackTo, which is kept as an
// annotation: the template of a revision (0: the one before the last) becomes the Deployment's. `kubectl rollout undo`
// does the same by itself.
func (w *world) rollback() {
	revision, err := strconv.ParseInt(w.d.Annotations[annRollback], 10, 64)
	w.d.Annotations = maps.Clone(w.d.Annotations)
	delete(w.d.Annotations, annRollback)
	if err != nil {
		return
	}
	if revision == 0 {
		if revision = w.lastRevision(); revision == 0 {
			w.tell(corev1.EventTypeWarning, "DeploymentRollbackRevisionNotFound", "Unable to find last revision.")
			return
		}
	}
	for _, rs := range w.sets {
		if revisionOf(rs) != revision {
			continue
		}
		if sameTemplate(&rs.Spec.Template, &w.d.Spec.Template) {
			w.tell(corev1.EventTypeWarning, "DeploymentRollbackTemplateUnchanged",
				"The rollback revision contains the same template as current deployment %q", w.d.Name)
			return
		}
		w.d.Spec.Template = *rs.Spec.Template.DeepCopy()
		w.d.Spec.Template.Labels = withoutHash(w.d.Spec.Template.Labels)
		w.takeAnnotations(rs)
		w.tell(corev1.EventTypeNormal, "DeploymentRollback", "Rolled back deployment %q to revision %d", w.d.Name, revision)
		return
	}
	w.tell(corev1.EventTypeWarning, "DeploymentRollbackRevisionNotFound", "Unable to find the revision to rollback to.")
}

// takeAnnotations restores those of the revision, such as its change cause.
func (w *world) takeAnnotations(rs *appsv1.ReplicaSet) {
	kept := map[string]string{}
	for k, v := range w.d.Annotations {
		if notCopied[k] {
			kept[k] = v
		}
	}
	for k, v := range rs.Annotations {
		if !notCopied[k] {
			kept[k] = v
		}
	}
	w.d.Annotations = kept
}

// lastRevision is the second highest; 0 when there is none.
func (w *world) lastRevision() int64 {
	var highest, second int64
	for _, rs := range w.sets {
		switch v := revisionOf(rs); {
		case v > highest:
			highest, second = v, highest
		case v > second:
			second = v
		}
	}
	return second
}
