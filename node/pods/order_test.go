package pods

import (
	"testing"

	corev1 "k8s.io/api/core/v1"
)

// Whoever debugs a pod that does not get through its init containers needs it then.
func TestEphemeralContainerBesideInit(t *testing.T) {
	test(t, func(t *testing.T, n *node) {
		p := pod("p", "init", "a")
		n.apply(p)
		n.want("uid-p", "Pending init=running a=PodInitializing")
		p = p.DeepCopy()
		common := corev1.EphemeralContainerCommon{Name: "debug", Image: "img", ImagePullPolicy: corev1.PullIfNotPresent}
		p.Spec.EphemeralContainers = []corev1.EphemeralContainer{{EphemeralContainerCommon: common, TargetContainerName: "init"}}
		p.Generation = 2
		n.apply(p)
		debug := func() bool {
			s := n.status("uid-p").EphemeralContainerStatuses
			return len(s) == 1 && s[0].State.Running != nil
		}
		n.want("uid-p", "Pending init=running a=PodInitializing")
		if !debug() {
			t.Errorf("does not run: %s", n.containers("uid-p"))
		}
		n.engine.Kill(n.id("uid-p", "init"), 1, false)
		seconds(2)
		n.engine.Kill(n.id("uid-p", "init"), 1, false)
		seconds(2)
		n.want("uid-p", "Pending init=CrashLoopBackOff x1 a=PodInitializing")
		if !debug() {
			t.Errorf("does not run beside the back-off: %s", n.containers("uid-p"))
		}
		seconds(30)
		n.engine.Kill(n.id("uid-p", "init"), 0, false)
		seconds(1)
		n.want("uid-p", "Running init=Completed:0+ x2 a=running+")
		n.engine.Kill(n.id("uid-p", "debug"), 0, false)
		seconds(30)
		if n.engine.Calls("StartContainer") != 5 || debug() {
			t.Errorf("it runs once: %s", n.containers("uid-p"))
		}
	})
}
