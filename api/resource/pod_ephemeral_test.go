package resource

import (
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func TestEphemeralContainersAreAddedOnly(t *testing.T) {
	old := &corev1.Pod{TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Pod"}, Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "web", Image: "nginx"}}}}
	old.Name, old.Namespace, old.UID, old.ResourceVersion, old.Generation = "p", "ns", "u", "7", 1
	table := NewTable()
	table.Default(old)
	debugger := corev1.EphemeralContainer{EphemeralContainerCommon: corev1.EphemeralContainerCommon{Name: "debugger", Image: "busybox"}}
	with := old.DeepCopy()
	with.Spec.EphemeralContainers = append(with.Spec.EphemeralContainers, debugger)
	table.Default(with)

	rules := rulesOf(t, old).Updates["ephemeralcontainers"]
	for name, test := range map[string]struct {
		from   *corev1.Pod
		change func(*corev1.Pod)
		err    string
		count  int
	}{
		"added":        {old, func(p *corev1.Pod) { p.Spec.EphemeralContainers = with.Spec.EphemeralContainers }, "", 1},
		"nothing else": {old, func(p *corev1.Pod) { p.Spec.Containers[0].Image = "other"; p.Labels = map[string]string{"a": "b"} }, "", 0},
		"removed":      {with, func(p *corev1.Pod) { p.Spec.EphemeralContainers = nil }, "existing ephemeral containers", 0},
		"changed":      {with, func(p *corev1.Pod) { p.Spec.EphemeralContainers[0].Image = "other" }, "existing ephemeral containers", 1},
		"a name twice": {old, func(p *corev1.Pod) {
			p.Spec.EphemeralContainers = []corev1.EphemeralContainer{{EphemeralContainerCommon: corev1.EphemeralContainerCommon{Name: "web", Image: "busybox"}}}
		}, "Duplicate", 1},
	} {
		pod := test.from.DeepCopy()
		test.change(pod)
		table.Default(pod)
		rules.Prepare(pod, test.from)
		err := ""
		if errs := rules.Validate(t.Context(), pod, test.from); len(errs) > 0 {
			err = errs.ToAggregate().Error()
		}
		if (err == "") != (test.err == "") || !strings.Contains(err, test.err) {
			t.Errorf("%s: %s", name, err)
		}
		if len(pod.Spec.EphemeralContainers) != test.count || pod.Spec.Containers[0].Image != "nginx" || len(pod.Labels) != 0 {
			t.Errorf("%s: %+v", name, pod.Spec)
		}
		if added := test.count > len(test.from.Spec.EphemeralContainers); (pod.Generation > test.from.Generation) != added && test.err == "" {
			t.Errorf("%s: generation %d after %d", name, pod.Generation, test.from.Generation)
		}
	}
}
