package main

import (
	"strings"
	"testing"
	"testing/synctest"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/cli-runtime/pkg/genericiooptions"
	"k8s.io/client-go/kubernetes/fake"

	"github.com/whalepod/whalepod/node/diagnose/why"
)

func waiting(reason, message string) corev1.ContainerStatus {
	return corev1.ContainerStatus{Name: "web", State: corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: reason, Message: message}}}
}

func crashed(s corev1.ContainerStatus, code int32, reason string) corev1.ContainerStatus {
	s.RestartCount = 3
	s.LastTerminationState.Terminated = &corev1.ContainerStateTerminated{ExitCode: code, Reason: reason}
	return s
}

func ofReplicaSet(name, rs string, statuses ...corev1.ContainerStatus) *corev1.Pod {
	yes := true
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: "shop", Name: name, UID: types.UID(name), Labels: map[string]string{"app": "web"},
			OwnerReferences: []metav1.OwnerReference{{Kind: "ReplicaSet", Name: rs, UID: types.UID(rs), Controller: &yes}},
		},
		Spec:   corev1.PodSpec{NodeName: "n1"},
		Status: corev1.PodStatus{Phase: corev1.PodPending, ContainerStatuses: statuses},
	}
}

func TestTroubles(t *testing.T) {
	running := corev1.ContainerStatus{Name: "web", State: corev1.ContainerState{Running: &corev1.ContainerStateRunning{}}}
	ended := corev1.ContainerStatus{Name: "web", RestartCount: 1, State: corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{ExitCode: 137, Reason: "OOMKilled"}}}
	for name, test := range map[string]struct {
		pod         *corev1.Pod
		early, last string // what is said at once, and of a rollout that has failed; parts by "|"
	}{
		"all is well":        {ofReplicaSet("p", "new", running), "", "Pod p on node n1, container web: running, but not ready"},
		"is being made":      {ofReplicaSet("p", "new", waiting("ContainerCreating", "")), "", ""},
		"crash loop":         {ofReplicaSet("p", "new", crashed(waiting("CrashLoopBackOff", "back-off 10s"), 2, "Error")), "CrashLoopBackOff|  back-off 10s|ended with exit code 2.", "CrashLoopBackOff"},
		"out of memory":      {ofReplicaSet("p", "new", ended), "OOMKilled|exit code 137, OOMKilled", "OOMKilled"},
		"no image, at first": {ofReplicaSet("p", "new", waiting("ErrImagePull", "not found")), "", "ErrImagePull|not found"},
		"no image":           {ofReplicaSet("p", "new", waiting("ImagePullBackOff", "Back-off pulling\nimage")), "ImagePullBackOff|  Back-off pulling\n  image", "ImagePullBackOff"},
		"no secret":          {ofReplicaSet("p", "new", waiting("CreateContainerConfigError", `secret "x" not found`)), `secret "x" not found`, "CreateContainerConfigError"},
	} {
		t.Run(name, func(t *testing.T) {
			for last, want := range map[bool]string{false: test.early, true: test.last} {
				text := ""
				for _, f := range why.Of(test.pod, last) {
					text += f.Describe(test.pod, "", "")
				}
				if want == "" && text != "" {
					t.Errorf("last %v: %q, want nothing", last, text)
				}
				for part := range strings.SplitSeq(want, "|") {
					if !strings.Contains(text, part) {
						t.Errorf("last %v: %q lacks %q", last, text, part)
					}
				}
			}
		})
	}
	pod := ofReplicaSet("p", "new")
	pod.Spec.NodeName = ""
	pod.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodScheduled, Status: corev1.ConditionFalse, Reason: "Unschedulable", Message: "0/3 nodes are available"}}
	if f := why.Of(pod, false); len(f) != 1 || f[0].Describe(pod, "", "") != "\nPod p: Unschedulable\n  0/3 nodes are available\n" {
		t.Errorf("%+v", f)
	}
	pod.DeletionTimestamp = &metav1.Time{}
	if f := why.Of(pod, true); f != nil {
		t.Errorf("a pod that is being deleted: %+v", f)
	}
	text := why.Trouble{Container: "web", Reason: "r"}.Describe(ofReplicaSet("p", "new"), "Unhealthy: probe failed", "one\ntwo\n")
	if !strings.HasSuffix(text, "  Last event: Unhealthy: probe failed\n  The end of its log:\n    one\n    two\n") {
		t.Errorf("%q", text)
	}
}

func rolledOut(t *testing.T, d *appsv1.Deployment) *unstructured.Unstructured {
	t.Helper()
	m, err := runtime.DefaultUnstructuredConverter.ToUnstructured(d)
	if err != nil {
		t.Fatal(err)
	}
	u := &unstructured.Unstructured{Object: m}
	u.SetKind("Deployment")
	return u
}

// Of a Deployment's pods only those of the new ReplicaSet are explained, as soon as they are stuck and once each; the rest when
// the rollout has failed.
func TestRolloutIsExplained(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		yes := true
		rs := func(name, revision string) *appsv1.ReplicaSet {
			return &appsv1.ReplicaSet{ObjectMeta: metav1.ObjectMeta{
				Namespace: "shop", Name: name, UID: types.UID(name), Annotations: map[string]string{annRevision: revision},
				OwnerReferences: []metav1.OwnerReference{{Kind: "Deployment", Name: "web", UID: "web", Controller: &yes}},
			}}
		}
		d := &appsv1.Deployment{
			ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "web", UID: "web", Annotations: map[string]string{annRevision: "2"}},
			Spec:       appsv1.DeploymentSpec{Selector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": "web"}}},
		}
		fresh := ofReplicaSet("fresh", "new", waiting("ContainerCreating", ""))
		client := fake.NewClientset(rs("old", "1"), rs("new", "2"), fresh,
			ofReplicaSet("oldest", "old", crashed(waiting("CrashLoopBackOff", "old"), 1, "Error")),
			ofReplicaSet("slow", "new", corev1.ContainerStatus{Name: "web", State: corev1.ContainerState{Running: &corev1.ContainerStateRunning{}}}))
		var out strings.Builder
		e := newExplainer(t.Context(), client, &out)
		e.see(rolledOut(t, d), false)
		synctest.Wait()
		if out.String() != "" {
			t.Fatalf("said though nothing is wrong yet: %q", out.String())
		}
		fresh = fresh.DeepCopy()
		fresh.Status.ContainerStatuses[0] = crashed(waiting("CrashLoopBackOff", "back-off"), 1, "Error")
		for range 2 {
			if _, err := client.CoreV1().Pods("shop").UpdateStatus(t.Context(), fresh, metav1.UpdateOptions{}); err != nil {
				t.Fatal(err)
			}
			synctest.Wait()
		}
		said := out.String()
		if strings.Count(said, "Pod ") != 1 || !strings.Contains(said, "Pod fresh on node n1, container web: CrashLoopBackOff") ||
			!strings.Contains(said, "The end of its log:\n    fake logs") {
			t.Fatalf("%q", said)
		}
		d.Status.Conditions = []appsv1.DeploymentCondition{{Type: appsv1.DeploymentReplicaFailure, Status: corev1.ConditionTrue, Reason: "FailedCreate", Message: "exceeded quota"}}
		e.see(rolledOut(t, d), false)
		e.see(rolledOut(t, d), false)
		e.finish(true, false)
		more := strings.TrimPrefix(out.String(), said)
		if strings.Count(more, "Deployment web cannot make its pods: FailedCreate\n  exceeded quota") != 1 ||
			!strings.Contains(more, "Pod slow on node n1, container web: running, but not ready") || strings.Contains(out.String(), "oldest") {
			t.Errorf("%q", more)
		}
	})
}

// A rollout that succeeds is not commented on. What has no selector has no pods to follow.
func TestRolloutThatSucceeds(t *testing.T) {
	for _, labels := range []map[string]string{nil, {"app": "web"}} {
		synctest.Test(t, func(t *testing.T) {
			var out strings.Builder
			client := fake.NewClientset()
			e := newExplainer(t.Context(), client, &out)
			d := rolledOut(t, &appsv1.Deployment{
				ObjectMeta: metav1.ObjectMeta{UID: "web"}, Spec: appsv1.DeploymentSpec{Selector: &metav1.LabelSelector{MatchLabels: labels}},
			})
			e.see(d, false)
			synctest.Wait()
			if follows := len(client.Actions()) > 0; follows != (labels != nil) {
				t.Errorf("selector %v: pods are followed: %t", labels, follows)
			}
			e.see(d, true)
			e.finish(false, false)
			if out.String() != "" {
				t.Errorf("%q", out.String())
			}
		})
	}
}

// Pods of StatefulSets are new when they are of the revision that is rolled out; those of DaemonSets always.
func TestNewPodsOfOtherKinds(t *testing.T) {
	pod := ofReplicaSet("p", "db")
	pod.Labels[appsv1.ControllerRevisionHashLabelKey] = "db-2"
	owner := func(kind, uid, revision string) *unstructured.Unstructured {
		u := &unstructured.Unstructured{Object: map[string]any{"status": map[string]any{"updateRevision": revision}}}
		u.SetKind(kind)
		u.SetUID(types.UID(uid))
		return u
	}
	e := newExplainer(t.Context(), fake.NewClientset(), &strings.Builder{})
	for _, c := range []struct {
		owner *unstructured.Unstructured
		want  bool
	}{
		{owner("StatefulSet", "db", "db-2"), true}, {owner("StatefulSet", "db", "db-1"), false}, {owner("StatefulSet", "other", "db-2"), false},
		{owner("DaemonSet", "db", ""), true}, {owner("DaemonSet", "other", ""), false},
	} {
		if got := e.isNew(t.Context(), c.owner, pod); got != c.want {
			t.Errorf("%s %s: %v", c.owner.GetKind(), c.owner.GetUID(), got)
		}
	}
}

// The library's own flags are all passed on.
func TestStatusOptions(t *testing.T) {
	root := newCommand([]string{"wpctl"}, genericiooptions.NewTestIOStreamsDiscard())
	c, _, err := root.Find([]string{"rollout", "status"})
	if err != nil {
		t.Fatal(err)
	}
	if err := c.ParseFlags([]string{"-w=false", "--revision=3", "--timeout=5s", "-l", "a=b", "-f", "x.yml", "-R"}); err != nil {
		t.Fatal(err)
	}
	o := statusOptions(c, genericiooptions.NewTestIOStreamsDiscard())
	if o.Watch || o.Revision != 3 || o.Timeout.Seconds() != 5 || o.LabelSelector != "a=b" || len(o.FilenameOptions.Filenames) != 1 || !o.FilenameOptions.Recursive {
		t.Errorf("%+v", o)
	}
}
