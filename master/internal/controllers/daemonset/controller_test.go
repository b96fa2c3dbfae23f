package daemonset

import (
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	quantity "k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/whalepod/whalepod/master/internal/controllers/controllertest"
	"github.com/whalepod/whalepod/master/internal/registry"
)

var app = map[string]string{"app": "logs"}

// lab is the controller on nodes that bind and run pods when told to.
type lab struct{ *controllertest.Env }

func newLab(t *testing.T, nodes ...string) *lab {
	l := &lab{controllertest.New(t)}
	for _, name := range nodes {
		controllertest.Node(l.Env, name)
	}
	l.Start(New(Config{Registry: l.Registry, Logger: l.Logger}).Run)
	return l
}

func daemonSet(change func(*appsv1.DaemonSet)) *appsv1.DaemonSet {
	ds := &appsv1.DaemonSet{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "logs"},
		Spec: appsv1.DaemonSetSpec{
			Selector: &metav1.LabelSelector{MatchLabels: app},
			Template: corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: app}, Spec: controllertest.PodSpec()},
		},
	}
	if change != nil {
		change(ds)
	}
	return ds
}

func (l *lab) change(fn func(*appsv1.DaemonSet)) {
	l.T.Helper()
	controllertest.Change(l.Env, "default", "logs", fn)
	synctest.Wait()
}

func (l *lab) image(image string) {
	l.T.Helper()
	l.change(func(ds *appsv1.DaemonSet) { ds.Spec.Template.Spec.Containers[0].Image = image })
}

func (l *lab) status() appsv1.DaemonSetStatus {
	l.T.Helper()
	synctest.Wait()
	return controllertest.Get[*appsv1.DaemonSet](l.Env, "default", "logs").Status
}

// pods that are not going, by their node; the test fails when a node has two.
func (l *lab) pods() map[string]*corev1.Pod {
	l.T.Helper()
	synctest.Wait()
	out := map[string]*corev1.Pod{}
	for _, pod := range controllertest.List[*corev1.Pod](l.Env, "default") {
		if pod.DeletionTimestamp != nil {
			continue
		}
		if out[targetOf(pod)] != nil {
			l.T.Errorf("two pods on %s", targetOf(pod))
		}
		out[targetOf(pod)] = pod
	}
	return out
}

func (l *lab) on() string {
	l.T.Helper()
	var names []string
	for node := range l.pods() {
		names = append(names, node)
	}
	slices.Sort(names)
	return strings.Join(names, " ")
}

// run does what scheduler and agents do: binds pods, makes them ready, and ends those that are going.
func (l *lab) run() {
	l.T.Helper()
	synctest.Wait()
	for _, pod := range controllertest.List[*corev1.Pod](l.Env, "default") {
		l.step(pod)
	}
	synctest.Wait()
}

func (l *lab) step(pod *corev1.Pod) {
	l.T.Helper()
	if pod.DeletionTimestamp != nil {
		l.end(pod)
		return
	}
	if pod.Spec.NodeName == "" {
		l.Update(func(tx *registry.Tx) error { return tx.Bind(pod, targetOf(pod)) })
	}
	if pod.Status.Phase == corev1.PodPending {
		controllertest.SetReady(l.Env, "default", pod.Name, "10.244.0.2", true)
	}
}

func (l *lab) end(pod *corev1.Pod) {
	l.T.Helper()
	zero := int64(0)
	controllertest.Delete[*corev1.Pod](l.Env, "default", pod.Name, registry.DeleteOptions{GracePeriodSeconds: &zero})
	synctest.Wait()
}

func (l *lab) label(node, key, value string) {
	l.T.Helper()
	controllertest.Change(l.Env, "", node, func(n *corev1.Node) { n.Labels = map[string]string{key: value} })
}

func TestOnePodOnEachNode(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLab(t, "n1", "n2")
		controllertest.Create(l.Env, daemonSet(nil))
		if got := l.on(); got != "n1 n2" {
			t.Fatalf("pods on %q", got)
		}
		pod := l.pods()["n1"]
		if pod.GenerateName != "logs-" || pod.Labels[hashLabel] == "" || pod.Labels[generationLabel] != "1" || !metav1.IsControlledBy(pod, controllertest.Get[*appsv1.DaemonSet](l.Env, "default", "logs")) {
			t.Errorf("pod %+v", pod.ObjectMeta)
		}
		keys := []string{}
		for _, to := range pod.Spec.Tolerations {
			if to.Operator != corev1.TolerationOpExists || to.TolerationSeconds != nil {
				t.Errorf("toleration %+v", to)
			}
			keys = append(keys, strings.TrimPrefix(to.Key, "node.kubernetes.io/")+":"+string(to.Effect))
		}
		if want := "not-ready:NoExecute unreachable:NoExecute disk-pressure:NoSchedule memory-pressure:NoSchedule pid-pressure:NoSchedule unschedulable:NoSchedule"; strings.Join(keys, " ") != want {
			t.Errorf("tolerations %q", keys)
		}
		if s := l.status(); s.DesiredNumberScheduled != 2 || s.CurrentNumberScheduled != 2 || s.NumberReady != 0 || s.NumberUnavailable != 2 || s.UpdatedNumberScheduled != 2 || s.ObservedGeneration != 1 {
			t.Errorf("status %+v", s)
		}
		l.run()
		if s := l.status(); s.NumberReady != 2 || s.NumberAvailable != 2 || s.NumberUnavailable != 0 {
			t.Errorf("status %+v", s)
		}
		controllertest.Node(l.Env, "n3")
		if got := l.on(); got != "n1 n2 n3" {
			t.Errorf("with a third node: pods on %q", got)
		}
		// A pod that waits for a node that goes will never be bound.
		controllertest.Delete[*corev1.Node](l.Env, "", "n3", registry.DeleteOptions{})
		if got := l.on(); got != "n1 n2" {
			t.Errorf("without it: pods on %q", got)
		}
		// A deleted pod comes back when it is gone, not before.
		controllertest.Delete[*corev1.Pod](l.Env, "default", pod.Name, registry.DeleteOptions{})
		if got := l.on(); got != "n2" {
			t.Errorf("while one ends: pods on %q", got)
		}
		l.run()
		if got := l.on(); got != "n1 n2" {
			t.Errorf("afterwards: pods on %q", got)
		}
		ev := controllertest.Events(l.Env, "logs")
		if !slices.ContainsFunc(ev, func(s string) bool { return s == "SuccessfulCreate: Created pod: "+pod.Name }) {
			t.Errorf("events %q", ev)
		}
	})
}

func TestNodesThatChange(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLab(t, "n1", "n2")
		controllertest.Create(l.Env, daemonSet(func(ds *appsv1.DaemonSet) { ds.Spec.Template.Spec.NodeSelector = map[string]string{"color": "blue"} }))
		if got := l.on(); got != "" {
			t.Errorf("pods on %q", got)
		}
		l.label("n1", "color", "blue")
		l.run()
		if got := l.on(); got != "n1" {
			t.Errorf("blue: pods on %q", got)
		}
		l.label("n1", "color", "green")
		if got := l.on(); got != "" {
			t.Errorf("green: pods on %q", got)
		}
		if s := l.status(); s.NumberMisscheduled != 1 || s.DesiredNumberScheduled != 0 {
			t.Errorf("status %+v", s)
		}
		l.run()
		l.change(func(ds *appsv1.DaemonSet) { ds.Spec.Template.Spec.NodeSelector = nil })
		l.run()
		taint := func(effect corev1.TaintEffect) {
			controllertest.Change(l.Env, "", "n2", func(n *corev1.Node) {
				n.Spec.Taints = []corev1.Taint{{Key: "dedicated", Value: "db", Effect: effect}}
			})
		}
		taint(corev1.TaintEffectNoSchedule)
		if s := l.status(); l.on() != "n1 n2" || s.DesiredNumberScheduled != 1 || s.NumberMisscheduled != 1 {
			t.Errorf("a taint that forbids scheduling: pods on %q, %+v", l.on(), s)
		}
		taint(corev1.TaintEffectNoExecute)
		if got := l.on(); got != "n1" {
			t.Errorf("a taint that drives out: pods on %q", got)
		}
		l.run()
		l.change(func(ds *appsv1.DaemonSet) {
			ds.Spec.Template.Spec.Tolerations = []corev1.Toleration{{Key: "dedicated", Operator: corev1.TolerationOpExists}}
		})
		if _, ok := l.pods()["n2"]; !ok {
			t.Error("tolerated, but no pod")
		}
	})
}

func TestFailedPodsAreReplaced(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLab(t, "n1")
		controllertest.Create(l.Env, daemonSet(nil))
		l.run()
		fail := func(phase corev1.PodPhase) string {
			pod := l.pods()["n1"]
			controllertest.ChangeStatus(l.Env, "default", pod.Name, func(p *corev1.Pod) { p.Status.Phase = phase })
			synctest.Wait()
			return pod.Name
		}
		first := fail(corev1.PodFailed)
		if l.pods()["n1"] == nil || l.pods()["n1"].Name == first {
			t.Fatal("the failed pod was not replaced at once")
		}
		second := fail(corev1.PodFailed)
		if got := l.pods()["n1"].Name; got != second {
			t.Error("the second one was replaced without delay")
		}
		controllertest.Settle(1100 * time.Millisecond)
		if got := l.pods()["n1"].Name; got == second {
			t.Error("the second one was not replaced after a second")
		}
		third := fail(corev1.PodFailed)
		controllertest.Settle(1500 * time.Millisecond)
		if got := l.pods()["n1"].Name; got != third {
			t.Error("the delay did not grow")
		}
		controllertest.Settle(time.Second)
		fourth := fail(corev1.PodSucceeded)
		if got := l.pods()["n1"].Name; got == fourth {
			t.Error("a pod that succeeded was not replaced at once")
		}
		ev := controllertest.Events(l.Env, "logs")
		for _, want := range []string{
			"FailedDaemonPod: Found failed daemon pod default/" + first + " on node n1, will try to kill it",
			"SucceededDaemonPod: Found succeeded daemon pod default/" + fourth + " on node n1, will try to delete it",
		} {
			if !slices.Contains(ev, want) {
				t.Errorf("no event %q in %q", want, ev)
			}
		}
	})
}

func TestRollingUpdateAndBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLab(t, "n1", "n2", "n3")
		controllertest.Create(l.Env, daemonSet(func(ds *appsv1.DaemonSet) { ds.Spec.MinReadySeconds = 10 }))
		l.run()
		controllertest.Settle(11 * time.Second)
		if s := l.status(); s.NumberAvailable != 3 {
			t.Fatalf("status %+v", s)
		}
		before := l.pods()
		l.image("nginx:2")
		for want := 2; want >= 0; want-- {
			if n := len(l.pods()); n != 2 {
				t.Fatalf("%d pods while one is replaced", n)
			}
			l.run() // the old one ends, a new one is made
			l.run() // and becomes ready
			if s := l.status(); int(s.UpdatedNumberScheduled) != 3-want || s.NumberReady != 3 || s.NumberAvailable != 2 || len(l.pods()) != 3 {
				t.Errorf("%d to go: %+v", want, s)
			}
			controllertest.Settle(11 * time.Second)
		}
		if s := l.status(); s.UpdatedNumberScheduled != 3 || s.NumberAvailable != 3 {
			t.Errorf("status %+v", s)
		}
		hash := l.pods()["n1"].Labels[hashLabel]
		if hash == before["n1"].Labels[hashLabel] {
			t.Error("old pods")
		}

		// A template that never works stops at the first node, and going back leaves the others alone.
		before = l.pods()
		l.image("nosuch")
		l.run()
		l.change(func(ds *appsv1.DaemonSet) { ds.Spec.Template.Labels = app })
		kept := 0
		for node, pod := range l.pods() {
			if before[node].UID == pod.UID {
				kept++
			}
		}
		if kept != 2 {
			t.Errorf("%d pods kept", kept)
		}
		l.image("nginx:2")
		l.run()
		l.run()
		kept = 0
		for node, pod := range l.pods() {
			if before[node].UID == pod.UID {
				kept++
			}
			if pod.Labels[hashLabel] != hash {
				t.Errorf("%s has the template %s", node, pod.Labels[hashLabel])
			}
		}
		revisions := controllertest.List[*appsv1.ControllerRevision](l.Env, "default")
		if kept != 2 || len(revisions) != 3 {
			t.Errorf("%d pods kept, %d revisions", kept, len(revisions))
		}
		for _, r := range revisions {
			if want := int64(4); r.Labels[hashLabel] == hash && r.Revision != want {
				t.Errorf("revision %d, want %d", r.Revision, want)
			}
		}
	})
}

func TestSurge(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLab(t, "n1", "n2")
		controllertest.Create(l.Env, daemonSet(func(ds *appsv1.DaemonSet) {
			one, none := intstr.FromInt32(1), intstr.FromInt32(0)
			ds.Spec.UpdateStrategy = appsv1.DaemonSetUpdateStrategy{
				Type: appsv1.RollingUpdateDaemonSetStrategyType, RollingUpdate: &appsv1.RollingUpdateDaemonSet{MaxSurge: &one, MaxUnavailable: &none},
			}
		}))
		l.run()
		l.image("nginx:2")
		for range 10 {
			synctest.Wait()
			pods, ready := 0, map[string]bool{}
			for _, pod := range controllertest.List[*corev1.Pod](l.Env, "default") {
				if pod.DeletionTimestamp != nil {
					continue
				}
				pods++
				for _, c := range pod.Status.Conditions {
					if c.Type == corev1.PodReady && c.Status == corev1.ConditionTrue {
						ready[targetOf(pod)] = true
					}
				}
			}
			if pods > 3 || len(ready) != 2 {
				t.Fatalf("%d pods, ready on %v", pods, ready)
			}
			// One step of one pod, so that every state is looked at.
			for _, pod := range controllertest.List[*corev1.Pod](l.Env, "default") {
				if pod.DeletionTimestamp != nil || pod.Spec.NodeName == "" || pod.Status.Phase == corev1.PodPending {
					l.step(pod)
					break
				}
			}
		}
		if s := l.status(); s.UpdatedNumberScheduled != 2 || s.NumberAvailable != 2 || len(l.pods()) != 2 {
			t.Errorf("status %+v", s)
		}
	})
}

func TestOnDelete(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLab(t, "n1", "n2")
		controllertest.Create(l.Env, daemonSet(func(ds *appsv1.DaemonSet) { ds.Spec.UpdateStrategy.Type = appsv1.OnDeleteDaemonSetStrategyType }))
		l.run()
		l.image("nginx:2")
		l.run()
		if s := l.status(); s.UpdatedNumberScheduled != 0 || s.NumberAvailable != 2 {
			t.Errorf("updated without being asked: %+v", s)
		}
		controllertest.Delete[*corev1.Pod](l.Env, "default", l.pods()["n1"].Name, registry.DeleteOptions{})
		l.run()
		l.run()
		if pods := l.pods(); pods["n1"].Spec.Containers[0].Image != "nginx:2" || pods["n2"].Spec.Containers[0].Image != "nginx" {
			t.Error("the deleted one is to be new, the other one old")
		}
	})
}

func TestAdoptionAndRelease(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLab(t, "n1")
		orphan := controllertest.Pod("orphan", app)
		orphan.Spec.NodeName = "n1"
		controllertest.Create(l.Env, orphan)
		ds := controllertest.Create(l.Env, daemonSet(func(ds *appsv1.DaemonSet) { ds.Spec.UpdateStrategy.Type = appsv1.OnDeleteDaemonSetStrategyType }))
		if pods := l.pods(); len(pods) != 1 || pods["n1"].Name != "orphan" || !metav1.IsControlledBy(pods["n1"], ds) {
			t.Errorf("pods %v", pods)
		}
		controllertest.Change(l.Env, "default", "orphan", func(p *corev1.Pod) { p.Labels = nil })
		synctest.Wait()
		if pod := controllertest.Get[*corev1.Pod](l.Env, "default", "orphan"); metav1.GetControllerOf(pod) != nil {
			t.Error("not released")
		}
		if n := len(controllertest.List[*corev1.Pod](l.Env, "default")); n != 2 {
			t.Errorf("%d pods", n)
		}
	})
}

func TestHistoryLimit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLab(t, "n1")
		one := int32(1)
		controllertest.Create(l.Env, daemonSet(func(ds *appsv1.DaemonSet) { ds.Spec.RevisionHistoryLimit = &one }))
		l.run()
		for _, image := range []string{"a", "b", "c"} {
			l.image(image)
			l.run()
			l.run()
		}
		var numbers []int64
		for _, r := range controllertest.List[*appsv1.ControllerRevision](l.Env, "default") {
			numbers = append(numbers, r.Revision)
		}
		slices.Sort(numbers)
		if !slices.Equal(numbers, []int64{3, 4}) {
			t.Errorf("revisions %v", numbers)
		}
	})
}

// TestDoublesOfRevisions: an adopted revision with the same template; the newer one stays, and the pods become its.
func TestDoublesOfRevisions(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLab(t, "n1")
		controllertest.Create(l.Env, daemonSet(nil))
		l.run()
		own := controllertest.List[*appsv1.ControllerRevision](l.Env, "default")[0]
		uid := l.pods()["n1"].UID
		controllertest.Create(l.Env, &appsv1.ControllerRevision{
			ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "logs-double", Labels: app},
			Data:       runtime.RawExtension{Raw: own.Data.Raw}, Revision: own.Revision + 5,
		})
		synctest.Wait()
		left := controllertest.List[*appsv1.ControllerRevision](l.Env, "default")
		pod := l.pods()["n1"]
		if len(left) != 1 || left[0].Name != "logs-double" || left[0].Labels[hashLabel] != "logs-double" || pod.UID != uid || pod.Labels[hashLabel] != "logs-double" {
			t.Errorf("left %v, pod %v", left, pod.Labels)
		}
	})
}

// TestRevisionOfSomebodyElse: one that is made in the set's name is left alone until the set has something to do.
func TestRevisionOfSomebodyElse(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLab(t, "n1")
		ds := controllertest.Create(l.Env, daemonSet(nil))
		l.run()
		own := controllertest.List[*appsv1.ControllerRevision](l.Env, "default")[0]
		controllertest.Create(l.Env, &appsv1.ControllerRevision{
			ObjectMeta: metav1.ObjectMeta{
				Namespace: "default", Name: "logs-theirs", Labels: app, OwnerReferences: []metav1.OwnerReference{*metav1.NewControllerRef(ds, kind)},
			},
			Data: runtime.RawExtension{Raw: own.Data.Raw}, Revision: own.Revision + 1,
		})
		synctest.Wait()
		if left := controllertest.List[*appsv1.ControllerRevision](l.Env, "default"); len(left) != 2 {
			t.Fatal("it was taken for a double at once:", left)
		}
		controllertest.Delete[*appsv1.ControllerRevision](l.Env, "default", own.Name, registry.DeleteOptions{})
		synctest.Wait()
		if left := controllertest.List[*appsv1.ControllerRevision](l.Env, "default"); len(left) != 1 || left[0].Name != "logs-theirs" {
			t.Error("in its place:", left)
		}
	})
}

func TestFailedCreationIsTold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLab(t, "n1")
		controllertest.Create(l.Env, &corev1.ResourceQuota{
			ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "none"},
			Spec:       corev1.ResourceQuotaSpec{Hard: corev1.ResourceList{corev1.ResourcePods: quantity.MustParse("0")}},
		})
		controllertest.Create(l.Env, daemonSet(nil))
		if s := l.status(); s.DesiredNumberScheduled != 1 || s.CurrentNumberScheduled != 0 || s.ObservedGeneration != 1 {
			t.Errorf("status %+v", s)
		}
		if ev := controllertest.Events(l.Env, "logs"); !slices.ContainsFunc(ev, func(s string) bool {
			return strings.HasPrefix(s, `FailedCreate: Error creating: pods "logs-" is forbidden: exceeded quota: none`)
		}) {
			t.Errorf("events %q", ev)
		}
		controllertest.Delete[*corev1.ResourceQuota](l.Env, "default", "none", registry.DeleteOptions{})
		controllertest.Settle(2 * time.Minute)
		if got := l.on(); got != "n1" {
			t.Errorf("pods on %q", got)
		}
	})
}
