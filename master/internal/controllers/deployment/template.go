package deployment

import (
	"encoding/json"
	"fmt"
	"hash/fnv"
	"maps"
	"strconv"
	"strings"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/rand"
	"k8s.io/apimachinery/pkg/util/validation"
)

// Annotations that kubectl rollout and proportional scaling read.
const (
	annRevision   = "deployment.kubernetes.io/revision"
	annHistory    = "deployment.kubernetes.io/revision-history"
	annDesired    = "deployment.kubernetes.io/desired-replicas"
	annMax        = "deployment.kubernetes.io/max-replicas"
	annRollback   = appsv1.DeprecatedRollbackTo
	annLast       = corev1.LastAppliedConfigAnnotation
	hashLabel     = appsv1.DefaultDeploymentUniqueLabelKey
	historyLength = 2000 // characters
)

// notCopied are annotations that belong to the Deployment or the ReplicaSet alone.
var notCopied = map[string]bool{annLast: true, annRevision: true, annHistory: true, annDesired: true, annMax: true, annRollback: true}

// sameTemplate compares without the label that tells templates apart.
func sameTemplate(a, b *corev1.PodTemplateSpec) bool {
	x, y := *a, *b
	x.Labels, y.Labels = withoutHash(a.Labels), withoutHash(b.Labels)
	return apiequality.Semantic.DeepEqual(&x, &y)
}

func withoutHash(labels map[string]string) map[string]string {
	if _, has := labels[hashLabel]; !has {
		return labels
	}
	labels = maps.Clone(labels)
	delete(labels, hashLabel)
	return labels
}

// hashOf names a template. It is made from the JSON that users see, not from Go's structures, so that a later release
// whose API has more fields still names old templates alike; collisions counts on when the name is taken.
func hashOf(t *corev1.PodTemplateSpec, collisions *int32) (string, error) {
	c := *t
	c.Labels = withoutHash(t.Labels)
	text, err := json.Marshal(&c)
	if err != nil {
		return "", fmt.Errorf("pod template: %w", err)
	}
	h := fnv.New32a()
	h.Write(text)
	if collisions != nil {
		fmt.Fprintf(h, "/%d", *collisions)
	}
	return rand.SafeEncodeString(strconv.FormatUint(uint64(h.Sum32()), 10)), nil
}

func revisionOf(o metav1.Object) int64 {
	n, err := strconv.ParseInt(o.GetAnnotations()[annRevision], 10, 64)
	if err != nil {
		return 0
	}
	return n
}

func annotate(o metav1.Object, key, value string) {
	a := maps.Clone(o.GetAnnotations())
	if a == nil {
		a = map[string]string{}
	}
	a[key] = value
	o.SetAnnotations(a)
}

func noteShare(rs *appsv1.ReplicaSet, desired, most int32) {
	annotate(rs, annDesired, strconv.Itoa(int(desired)))
	annotate(rs, annMax, strconv.Itoa(int(most)))
}

func number(o metav1.Object, key string) (int32, bool) {
	n, err := strconv.ParseInt(o.GetAnnotations()[key], 10, 32)
	return int32(n), err == nil
}

// noteRevision copies the Deployment's annotations to its current ReplicaSet and gives it the newest revision. A ReplicaSet
// that becomes current again remembers the revisions it had.
func (w *world) noteRevision(rs *appsv1.ReplicaSet) {
	for k, v := range w.d.Annotations {
		if !notCopied[k] {
			annotate(rs, k, v)
		}
	}
	var newest int64
	for _, other := range w.sets {
		if other != rs {
			newest = max(newest, revisionOf(other))
		}
	}
	before, had := rs.Annotations[annRevision]
	if revisionOf(rs) < newest+1 {
		annotate(rs, annRevision, strconv.FormatInt(newest+1, 10))
		if had {
			annotate(rs, annHistory, history(rs.Annotations[annHistory], before))
		}
	}
	annotate(w.d, annRevision, rs.Annotations[annRevision])
}

func history(past, revision string) string {
	if past == "" {
		return revision
	}
	list := append(strings.Split(past, ","), revision)
	for len(list) > 1 && len(strings.Join(list, ",")) > historyLength {
		list = list[1:]
	}
	return strings.Join(list, ",")
}

// makeCurrent makes the ReplicaSet for the present template, of size n.
func (w *world) makeCurrent(n func() int32) error {
	var hash, name string
	for {
		var err error
		if hash, err = hashOf(&w.d.Spec.Template, w.d.Status.CollisionCount); err != nil {
			return err
		}
		if name = nameOf(w.d.Name, hash); !w.taken(name) {
			break
		}
		var next int32
		if w.d.Status.CollisionCount != nil {
			next = *w.d.Status.CollisionCount
		}
		next++
		w.d.Status.CollisionCount = &next
	}
	rs := &appsv1.ReplicaSet{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: w.d.Namespace, Name: name, Labels: withLabel(w.d.Spec.Template.Labels, hash),
			OwnerReferences: []metav1.OwnerReference{*metav1.NewControllerRef(w.d, kind)},
		},
		Spec: appsv1.ReplicaSetSpec{
			Replicas: new(int32), MinReadySeconds: w.d.Spec.MinReadySeconds,
			Selector: w.d.Spec.Selector.DeepCopy(), Template: *w.d.Spec.Template.DeepCopy(),
		},
	}
	rs.Spec.Template.Labels = withLabel(w.d.Spec.Template.Labels, hash)
	rs.Spec.Selector.MatchLabels = withLabel(w.d.Spec.Selector.MatchLabels, hash)
	w.sets = append(w.sets, rs)
	w.current, w.created = rs, rs
	w.noteRevision(rs)
	noteShare(rs, replicas(w.d), replicas(w.d)+w.surge)
	if size := n(); size > 0 {
		w.setSize(rs, size)
	}
	if hasDeadline(w.d) {
		w.progress(corev1.ConditionTrue, reasonCreated, fmt.Sprintf("Created new replica set %q", name))
	}
	return nil
}

// nameOf a ReplicaSet: a Deployment's name may be as long as a name can be.
func nameOf(deployment, hash string) string {
	most := validation.DNS1123SubdomainMaxLength - len("-") - len(hash)
	return deployment[:min(len(deployment), most)] + "-" + hash
}

func withLabel(labels map[string]string, hash string) map[string]string {
	out := make(map[string]string, len(labels)+1)
	maps.Copy(out, labels)
	out[hashLabel] = hash
	return out
}
