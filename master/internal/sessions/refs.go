package sessions

import (
	"slices"

	corev1 "k8s.io/api/core/v1"

	"github.com/whalepod/whalepod/master/internal/registry"
)

// podRefs lists the ConfigMaps, Secrets, RuntimeClasses and claims that a pod's node must know, each once.
func podRefs(pod *corev1.Pod) []registry.Key {
	var keys []registry.Key
	add := func(resource, name string) {
		k := registry.Key{Resource: resource, Namespace: pod.Namespace, Name: name}
		if name != "" && !slices.Contains(keys, k) {
			keys = append(keys, k)
		}
	}
	if class := pod.Spec.RuntimeClassName; class != nil && *class != "" {
		keys = append(keys, registry.Key{Resource: runtimeClasses, Name: *class})
	}
	for _, s := range pod.Spec.ImagePullSecrets {
		add("secrets", s.Name)
	}
	containers := func(env []corev1.EnvVar, from []corev1.EnvFromSource) {
		for _, e := range from {
			if e.ConfigMapRef != nil {
				add("configmaps", e.ConfigMapRef.Name)
			}
			if e.SecretRef != nil {
				add("secrets", e.SecretRef.Name)
			}
		}
		for _, e := range env {
			if e.ValueFrom == nil {
				continue
			}
			if r := e.ValueFrom.ConfigMapKeyRef; r != nil {
				add("configmaps", r.Name)
			}
			if r := e.ValueFrom.SecretKeyRef; r != nil {
				add("secrets", r.Name)
			}
		}
	}
	for _, c := range pod.Spec.InitContainers {
		containers(c.Env, c.EnvFrom)
	}
	for _, c := range pod.Spec.Containers {
		containers(c.Env, c.EnvFrom)
	}
	for _, c := range pod.Spec.EphemeralContainers {
		containers(c.Env, c.EnvFrom)
	}
	for _, v := range pod.Spec.Volumes {
		volumeRefs(v, add)
		switch {
		case v.PersistentVolumeClaim != nil:
			add(claims, v.PersistentVolumeClaim.ClaimName)
		case v.Ephemeral != nil:
			add(claims, pod.Name+"-"+v.Name) // as its claim is named
		}
	}
	return keys
}

func volumeRefs(v corev1.Volume, add func(resource, name string)) {
	if v.ConfigMap != nil {
		add("configmaps", v.ConfigMap.Name)
	}
	if v.Secret != nil {
		add("secrets", v.Secret.SecretName)
	}
	if v.Projected == nil {
		return
	}
	for _, src := range v.Projected.Sources {
		if src.ConfigMap != nil {
			add("configmaps", src.ConfigMap.Name)
		}
		if src.Secret != nil {
			add("secrets", src.Secret.Name)
		}
	}
}

// claimRefs is the volume that a claim is bound to.
func claimRefs(claim registry.Object) []registry.Key {
	if c, ok := claim.(*corev1.PersistentVolumeClaim); ok && c.Spec.VolumeName != "" {
		return []registry.Key{{Resource: volumes, Name: c.Spec.VolumeName}}
	}
	return nil
}
