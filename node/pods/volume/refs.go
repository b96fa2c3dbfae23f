package volume

import corev1 "k8s.io/api/core/v1"

// Refs lists the config maps, secrets and claims that a pod's volumes need, as kind/name.
func Refs(pod *corev1.Pod) []string {
	var out []string
	for _, v := range pod.Spec.Volumes {
		if claim := ClaimName(pod, &v); claim != "" {
			out = append(out, "claim/"+claim)
		}
		switch {
		case v.ConfigMap != nil:
			out = append(out, "configmap/"+v.ConfigMap.Name)
		case v.Secret != nil:
			out = append(out, "secret/"+v.Secret.SecretName)
		case v.Projected != nil:
			for _, s := range v.Projected.Sources {
				if s.ConfigMap != nil {
					out = append(out, "configmap/"+s.ConfigMap.Name)
				}
				if s.Secret != nil {
					out = append(out, "secret/"+s.Secret.Name)
				}
			}
		}
	}
	return out
}
