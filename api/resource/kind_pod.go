package resource

import (
	"context"
	"fmt"
	"strconv"

	corev1 "k8s.io/api/core/v1"
	utilvalidation "k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	podutil "k8s.io/kubernetes/pkg/api/pod"
	"k8s.io/kubernetes/pkg/apis/core"
	"k8s.io/kubernetes/pkg/apis/core/validation"
	"sigs.k8s.io/structured-merge-diff/v6/fieldpath"
)

func pods() *Resource {
	return &Resource{
		Name: "pods", Singular: "pod", Kind: "Pod", ListKind: "PodList", Namespaced: true,
		ShortNames: []string{"po"}, Categories: categoryAll, Storage: coreV1, Served: served(coreV1), Verbs: allVerbs,
		Subresources: map[string]Subresource{
			"status":      statusOf(coreV1, "Pod"),
			"binding":     {Kind: coreV1.WithKind("Binding"), Verbs: createOne},
			"eviction":    {Kind: policyV1.WithKind("Eviction"), Verbs: createOne},
			"log":         {Kind: coreV1.WithKind("Pod"), Verbs: []string{"get"}},
			"exec":        {Kind: coreV1.WithKind("PodExecOptions"), Verbs: connect},
			"attach":      {Kind: coreV1.WithKind("PodAttachOptions"), Verbs: connect},
			"portforward": {Kind: coreV1.WithKind("PodPortForwardOptions"), Verbs: connect},
			"proxy":       {Kind: coreV1.WithKind("PodProxyOptions"), Verbs: proxyAll},
			"resize":      {Kind: coreV1.WithKind("Pod"), Verbs: readWrite},

			"ephemeralcontainers": {Kind: coreV1.WithKind("Pod"), Verbs: readWrite},
		},
		rules: Rules{
			PrepareCreate: preparePod,
			PrepareUpdate: func(obj, old Object) {
				pod, before := obj.(*corev1.Pod), old.(*corev1.Pod)
				changed := differ(pod.Spec, before.Spec)
				if changed {
					dropDisabledPodFields(pod, before)
					changed = differ(pod.Spec, before.Spec)
				}
				pod.Status = before.Status
				keepGeneration(pod, before, changed)
			},
			PrepareStatus: preparePodStatus,
			Validate: validate(func(in *core.Pod) field.ErrorList {
				return validation.ValidatePodCreate(in, podOptions(in, nil))
			}),
			ValidateUpdate: validateChange(func(in, old *core.Pod) field.ErrorList {
				return validation.ValidatePodUpdate(in, old, podOptions(in, old))
			}),
			ValidateStatus: validateChange(func(in, old *core.Pod) field.ErrorList {
				return validation.ValidatePodStatusUpdate(in, old, podOptions(in, old))
			}),
			Updates: map[string]UpdateRules{
				"resize":              {Prepare: preparePodResize, Validate: validatePodResize, Owned: resizeFields},
				"ephemeralcontainers": {Prepare: preparePodEphemeral, Validate: validatePodEphemeral, Owned: ephemeralFields},
			},
			Warnings: podWarnings, Fields: podFields, GraceSeconds: podGrace,
			AllowUnconditionalUpdate: true,
			Reset: specAndStatus(fieldpath.MakePathOrDie("metadata", "deletionTimestamp"),
				fieldpath.MakePathOrDie("metadata", "ownerReferences")),
		},
	}
}

func podOptions(in, old *core.Pod) validation.PodValidationOptions {
	var oldSpec *core.PodSpec
	var options validation.PodValidationOptions
	if old != nil {
		oldSpec = &old.Spec
		options = podutil.GetValidationOptionsFromPodSpecAndMeta(&in.Spec, oldSpec, &in.ObjectMeta, &old.ObjectMeta)
	} else {
		options = podutil.GetValidationOptionsFromPodSpecAndMeta(&in.Spec, nil, &in.ObjectMeta, nil)
	}
	options.ResourceIsPod = true
	return options
}

// podWarnings are given on creation only: pods change often and seldom by hand.
func podWarnings(ctx context.Context, obj, old Object) []string {
	if old != nil {
		return nil
	}
	var out []string
	if msgs := utilvalidation.IsDNS1123Label(obj.GetName()); len(msgs) > 0 {
		out = append(out, fmt.Sprintf("metadata.name: this is used in the Pod's hostname, which can result in surprising behavior; a DNS label is recommended: %v", msgs))
	}
	return append(out, warnings(func(ctx context.Context, in, _ *core.Pod) []string {
		return podutil.GetWarningsForPod(ctx, in, nil)
	})(ctx, obj, nil)...)
}

func podFields(obj Object) map[string]string {
	pod := obj.(*corev1.Pod)
	ip := ""
	if len(pod.Status.PodIPs) > 0 {
		ip = pod.Status.PodIPs[0].IP
	}
	return map[string]string{
		"spec.nodeName":            pod.Spec.NodeName,
		"spec.restartPolicy":       string(pod.Spec.RestartPolicy),
		"spec.schedulerName":       pod.Spec.SchedulerName,
		"spec.serviceAccountName":  pod.Spec.ServiceAccountName,
		"spec.hostNetwork":         strconv.FormatBool(pod.Spec.HostNetwork),
		"status.phase":             string(pod.Status.Phase),
		"status.podIP":             ip,
		"status.nominatedNodeName": pod.Status.NominatedNodeName,
	}
}

// podGrace: a pod that no node has, or that has ended, goes at once, whatever grace period a client asks for.
func podGrace(obj Object) int64 {
	pod := obj.(*corev1.Pod)
	if pod.Spec.NodeName == "" || pod.Status.Phase == corev1.PodSucceeded || pod.Status.Phase == corev1.PodFailed ||
		pod.Spec.TerminationGracePeriodSeconds == nil {
		return 0
	}
	if seconds := *pod.Spec.TerminationGracePeriodSeconds; seconds >= 0 {
		return seconds
	}
	return 1
}
