package registry

import (
	"fmt"
	"hash/fnv"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/rand"
)

// What Kubernetes puts into every pod so that it can speak with the API.
const (
	defaultAccount = "default"
	apiAccess      = "kube-api-access-"
	apiAccessPath  = "/var/run/secrets/kubernetes.io/serviceaccount"
	rootCA         = "kube-root-ca.crt"
	// tokenSeconds is an hour, and odd enough to tell such tokens from those that somebody asked for.
	tokenSeconds = 3607
)

// admitServiceAccount does what Kubernetes' ServiceAccount admission does: the account by default, its pull secrets, and the
// volume with its token in each container that has nothing there yet.
func admitServiceAccount(v *View, pod *corev1.Pod) error {
	if pod.Spec.ServiceAccountName == "" {
		pod.Spec.ServiceAccountName = defaultAccount
	}
	pod.Spec.DeprecatedServiceAccount = pod.Spec.ServiceAccountName
	sa, err := Get[*corev1.ServiceAccount](v, pod.Namespace, pod.Spec.ServiceAccountName)
	if err != nil {
		if pod.Spec.ServiceAccountName != defaultAccount {
			return apierrors.NewForbidden(corev1.Resource("pods"), pod.Name,
				errorf("error looking up service account %s/%s: %w", pod.Namespace, pod.Spec.ServiceAccountName,
					apierrors.NewNotFound(corev1.Resource("serviceaccount"), pod.Spec.ServiceAccountName)))
		}
		// A new namespace gets its default account a moment later; the pod's containers wait for its token.
		sa = &corev1.ServiceAccount{}
	}
	if len(pod.Spec.ImagePullSecrets) == 0 {
		pod.Spec.ImagePullSecrets = append(pod.Spec.ImagePullSecrets, sa.ImagePullSecrets...)
	}
	if automounts(pod, sa) {
		mountToken(pod)
	}
	return nil
}

func automounts(pod *corev1.Pod, sa *corev1.ServiceAccount) bool {
	for _, said := range []*bool{pod.Spec.AutomountServiceAccountToken, sa.AutomountServiceAccountToken} {
		if said != nil {
			return *said
		}
	}
	return true
}

func mountToken(pod *corev1.Pod) {
	name, has := apiAccess+tokenSuffix(pod), false
	for _, v := range pod.Spec.Volumes {
		if strings.HasPrefix(v.Name, apiAccess) {
			name, has = v.Name, true
			break
		}
	}
	mounted := false
	mount := func(containers []corev1.Container) {
		for i := range containers {
			c := &containers[i]
			if mountsAt(c, apiAccessPath) {
				continue
			}
			c.VolumeMounts = append(c.VolumeMounts, corev1.VolumeMount{Name: name, ReadOnly: true, MountPath: apiAccessPath})
			mounted = true
		}
	}
	mount(pod.Spec.InitContainers)
	mount(pod.Spec.Containers)
	if mounted && !has {
		pod.Spec.Volumes = append(pod.Spec.Volumes, corev1.Volume{Name: name, VolumeSource: corev1.VolumeSource{Projected: tokenVolume()}})
	}
}

func mountsAt(c *corev1.Container, path string) bool {
	for _, m := range c.VolumeMounts {
		if m.MountPath == path {
			return true
		}
	}
	return false
}

// tokenSuffix looks as random as Kubernetes' does, but is the same for all pods of one controller, and for those of one account that have
// none: pods of one template then share one copy of their spec in the master's memory (see share.go).
func tokenSuffix(pod *corev1.Pod) string {
	of := pod.Namespace + "/" + pod.Spec.ServiceAccountName
	if owner := metav1.GetControllerOfNoCopy(pod); owner != nil {
		of = string(owner.UID)
	}
	h := fnv.New32a()
	_, _ = h.Write([]byte(of))
	return rand.SafeEncodeString(fmt.Sprintf("%010d", h.Sum32())[5:])
}

func tokenVolume() *corev1.ProjectedVolumeSource {
	seconds, mode := int64(tokenSeconds), corev1.ProjectedVolumeSourceDefaultMode
	return &corev1.ProjectedVolumeSource{
		DefaultMode: &mode,
		Sources: []corev1.VolumeProjection{
			{ServiceAccountToken: &corev1.ServiceAccountTokenProjection{ExpirationSeconds: &seconds, Path: "token"}},
			{ConfigMap: &corev1.ConfigMapProjection{
				LocalObjectReference: corev1.LocalObjectReference{Name: rootCA},
				Items:                []corev1.KeyToPath{{Key: "ca.crt", Path: "ca.crt"}},
			}},
			{DownwardAPI: &corev1.DownwardAPIProjection{Items: []corev1.DownwardAPIVolumeFile{{
				Path: "namespace", FieldRef: &corev1.ObjectFieldSelector{APIVersion: "v1", FieldPath: "metadata.namespace"},
			}}}},
		},
	}
}
