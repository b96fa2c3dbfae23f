package sessions

import (
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/google/go-cmp/cmp"

	"github.com/whalepod/whalepod/master/internal/registry"
)

func TestPodRefs(t *testing.T) {
	class := "gvisor"
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "p"}, Spec: corev1.PodSpec{
		RuntimeClassName: &class,
		ImagePullSecrets: []corev1.LocalObjectReference{{Name: "pull"}},
		Containers: []corev1.Container{{EnvFrom: []corev1.EnvFromSource{
			{ConfigMapRef: &corev1.ConfigMapEnvSource{LocalObjectReference: corev1.LocalObjectReference{Name: "env"}}},
			{SecretRef: &corev1.SecretEnvSource{LocalObjectReference: corev1.LocalObjectReference{Name: "pull"}}},
		}}},
		Volumes: []corev1.Volume{{VolumeSource: corev1.VolumeSource{Secret: &corev1.SecretVolumeSource{SecretName: "vol"}}}},
	}}
	want := []registry.Key{
		{Resource: "runtimeclasses.node.k8s.io", Name: "gvisor"}, // of no namespace
		{Resource: "secrets", Namespace: "ns", Name: "pull"},
		{Resource: "configmaps", Namespace: "ns", Name: "env"},
		{Resource: "secrets", Namespace: "ns", Name: "vol"},
	}
	if diff := cmp.Diff(want, podRefs(pod)); diff != "" {
		t.Error(diff)
	}
}
