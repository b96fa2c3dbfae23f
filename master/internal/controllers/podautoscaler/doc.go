// Package podautoscaler changes the number of replicas of what HorizontalPodAutoscalers name, so that their pods use as much as
// they should. It decides as kube-controller-manager's horizontal-pod-autoscaler does, in the same words, every 15 s and when
// an autoscaler changes; without autoscalers it does nothing. Metrics of pods are those that agents measure; there
// is no API of custom or external metrics.
//
// One thing differs: a container that asks for no processor at all counts as asking for defaultCPURequest.
//
// It writes: status of HorizontalPodAutoscalers; replicas in the spec of what they scale.
package podautoscaler
