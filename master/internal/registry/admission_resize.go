package registry

import (
	"errors"
	"fmt"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	helper "k8s.io/component-helpers/resource"
)

// Causes of a refused resize, as in Kubernetes' PodResize admission.
const (
	causeNodeCapacity        metav1.CauseType = "NodeCapacity"
	causeUnsupportedPlatform metav1.CauseType = "UnsupportedPlatform"
)

// admitResize does what Kubernetes' PodResize admission does: it refuses at once what a pod's node can never give.
func admitResize(v *View, pod, old *corev1.Pod) error {
	if pod.Spec.NodeName == "" || pod.Generation == old.Generation {
		return nil
	}
	forbidden := func(cause metav1.CauseType, format string, args ...any) error {
		err := apierrors.NewForbidden(corev1.Resource("pods"), pod.Name, errorf(format, args...))
		if cause != "" {
			err.ErrStatus.Details.Causes = append(err.ErrStatus.Details.Causes, metav1.StatusCause{Type: cause})
		}
		return err
	}
	node, err := Get[*corev1.Node](v, "", pod.Spec.NodeName)
	switch {
	case apierrors.IsNotFound(err):
		return forbidden("", "node %q not found", pod.Spec.NodeName)
	case err != nil:
		return forbidden("", "failed to get node %q: %w", pod.Spec.NodeName, err)
	}
	if os, ok := node.Labels[corev1.LabelOSStable]; ok && os != "linux" {
		return forbidden(causeUnsupportedPlatform, "pod resize is only supported on linux nodes, node %q is %q", node.Name, os)
	}
	if err := fitsAllocatable(pod, node.Status.Allocatable); err != nil {
		return forbidden(causeNodeCapacity, "%w", err)
	}
	return nil
}

func fitsAllocatable(pod *corev1.Pod, allocatable corev1.ResourceList) error {
	requests := helper.PodRequests(pod, helper.PodResourcesOptions{})
	var short []string
	if asked, has := requests.Cpu(), allocatable.Cpu(); asked.Cmp(*has) > 0 {
		short = append(short, fmt.Sprintf("cpu, requested: %d, allocatable: %d", asked.MilliValue(), has.MilliValue()))
	}
	if asked, has := requests.Memory(), allocatable.Memory(); asked.Cmp(*has) > 0 {
		short = append(short, fmt.Sprintf("memory, requested: %d, allocatable: %d", asked.Value(), has.Value()))
	}
	if len(short) == 0 {
		return nil
	}
	return errors.New("node didn't have enough allocatable resources: " + strings.Join(short, "; "))
}
