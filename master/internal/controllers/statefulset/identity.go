package statefulset

import (
	"strconv"
	"strings"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	utilvalidation "k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/whalepod/whalepod/master/internal/controllers/podstate"
)

// split takes a pod's name apart, as in web-3; ok is false for a name that no StatefulSet gives (web-03).
func split(name string) (set string, ordinal int, ok bool) {
	i := strings.LastIndexByte(name, '-')
	if i < 0 {
		return "", 0, false
	}
	n, err := strconv.ParseInt(name[i+1:], 10, 32)
	if err != nil || n < 0 || strconv.FormatInt(n, 10) != name[i+1:] {
		return "", 0, false
	}
	return name[:i], int(n), true
}

// ordinalOf a pod of a set; -1 for one that is not the set's by its name.
func ordinalOf(set *appsv1.StatefulSet, pod *corev1.Pod) int {
	name, ordinal, ok := split(pod.Name)
	if !ok || name != set.Name {
		return -1
	}
	return ordinal
}

func nameOf(set *appsv1.StatefulSet, ordinal int) string {
	return set.Name + "-" + strconv.Itoa(ordinal)
}

func claimName(set *appsv1.StatefulSet, template *corev1.PersistentVolumeClaim, ordinal int) string {
	return template.Name + "-" + nameOf(set, ordinal)
}

func replicasOf(set *appsv1.StatefulSet) int {
	if set.Spec.Replicas == nil {
		return 1
	}
	return int(*set.Spec.Replicas)
}

func startOf(set *appsv1.StatefulSet) int {
	if set.Spec.Ordinals == nil {
		return 0
	}
	return int(set.Spec.Ordinals.Start)
}

// inRange says whether the set wants a pod of this ordinal.
func inRange(set *appsv1.StatefulSet, ordinal int) bool {
	return ordinal >= startOf(set) && ordinal < startOf(set)+replicasOf(set)
}

// newPod makes the pod of an ordinal from one revision's template.
func newPod(set *appsv1.StatefulSet, template *corev1.PodTemplateSpec, revision string, ordinal int) *corev1.Pod {
	pod := podstate.FromTemplate(template, set, kind)
	pod.GenerateName, pod.Name = "", nameOf(set, ordinal)
	if pod.Labels == nil {
		pod.Labels = map[string]string{}
	}
	pod.Labels[appsv1.StatefulSetPodNameLabel] = pod.Name
	pod.Labels[appsv1.PodIndexLabel] = strconv.Itoa(ordinal)
	pod.Labels[appsv1.StatefulSetRevisionLabel] = revision
	pod.Spec.Hostname, pod.Spec.Subdomain = pod.Name, set.Spec.ServiceName
	if len(set.Spec.VolumeClaimTemplates) == 0 {
		return pod
	}
	volumes := make([]corev1.Volume, 0, len(set.Spec.VolumeClaimTemplates)+len(pod.Spec.Volumes))
	claimed := map[string]bool{}
	for i := range set.Spec.VolumeClaimTemplates {
		t := &set.Spec.VolumeClaimTemplates[i]
		claimed[t.Name] = true
		volumes = append(volumes, corev1.Volume{Name: t.Name, VolumeSource: corev1.VolumeSource{
			PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: claimName(set, t, ordinal)},
		}})
	}
	for _, v := range pod.Spec.Volumes {
		if !claimed[v.Name] {
			volumes = append(volumes, v)
		}
	}
	pod.Spec.Volumes = volumes
	return pod
}

// invalidName says, in the API server's words, why a set's name is too long for what its pods need: the template was
// validated before anybody knew their names, and pods made by controllers are not validated again.
func invalidName(pod *corev1.Pod) error {
	var errs field.ErrorList
	for _, key := range []string{appsv1.StatefulSetRevisionLabel, appsv1.StatefulSetPodNameLabel} {
		for _, why := range utilvalidation.IsValidLabelValue(pod.Labels[key]) {
			errs = append(errs, field.Invalid(field.NewPath("metadata", "labels"), pod.Labels[key], why))
		}
	}
	for _, why := range utilvalidation.IsDNS1123Label(pod.Spec.Hostname) {
		errs = append(errs, field.Invalid(field.NewPath("spec", "hostname"), pod.Spec.Hostname, why))
	}
	if len(errs) == 0 {
		return nil
	}
	return apierrors.NewInvalid(corev1.SchemeGroupVersion.WithKind("Pod").GroupKind(), pod.Name, errs)
}

// identified gives a copy of an adopted pod with the label of its name, or nil when it has it.
func identified(pod *corev1.Pod) *corev1.Pod {
	if pod.Labels[appsv1.StatefulSetPodNameLabel] == pod.Name {
		return nil
	}
	_, ordinal, _ := split(pod.Name)
	pod = pod.DeepCopy()
	if pod.Labels == nil {
		pod.Labels = map[string]string{}
	}
	pod.Labels[appsv1.StatefulSetPodNameLabel] = pod.Name
	pod.Labels[appsv1.PodIndexLabel] = strconv.Itoa(ordinal)
	return pod
}

// stored says whether a pod mounts every claim of its ordinal; an adopted one may not.
func stored(set *appsv1.StatefulSet, pod *corev1.Pod) bool {
	ordinal := ordinalOf(set, pod)
	for i := range set.Spec.VolumeClaimTemplates {
		t, found := &set.Spec.VolumeClaimTemplates[i], false
		for j := range pod.Spec.Volumes {
			v := &pod.Spec.Volumes[j]
			found = found || v.Name == t.Name && v.PersistentVolumeClaim != nil && v.PersistentVolumeClaim.ClaimName == claimName(set, t, ordinal)
		}
		if !found {
			return false
		}
	}
	return true
}
