package scheduler

import (
	"reflect"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
)

// template is a pod with something of everything that filters read.
func template() *corev1.Pod {
	p := testPod("100m", "1Gi", app("web"), prio(3), away("web", host))
	p.Spec.InitContainers = []corev1.Container{{Name: "init"}}
	p.Spec.Tolerations = []corev1.Toleration{{Key: "mine", Operator: corev1.TolerationOpExists}}
	p.Spec.NodeSelector = map[string]string{"disk": "ssd"}
	p.Spec.Overhead = list("10m", "", "")
	p.Spec.Resources = &corev1.ResourceRequirements{Requests: list("1", "", "")}
	return p
}

// another is a pod of the same template, of which it shares the parts as the registry has it.
func another(p *corev1.Pod) *corev1.Pod {
	c := *p
	c.Name, c.UID = "another", "another"
	return &c
}

func TestAlike(t *testing.T) {
	s := snapshotOf(testNode("a", "1", "1Gi"))
	p := template()
	same := p.DeepCopy()
	same.Name, same.UID, same.Spec.Hostname = "same", "same", "same"
	same.Spec.Containers[0].Resources.Requests["cpu"] = resource.MustParse("0.1")
	_ = same.Spec.Containers[0].Resources.Requests.Cpu().String()
	if !s.Alike(p, another(p)) || !s.Alike(p, same) {
		t.Error("pods of one template are not alike")
	}
	never := corev1.PreemptNever
	for name, change := range map[string]func(*corev1.Pod){
		"namespace":     func(p *corev1.Pod) { p.Namespace = "other" },
		"labels":        func(p *corev1.Pod) { p.Labels = map[string]string{"app": "db"} },
		"priority":      prio(4),
		"no priority":   func(p *corev1.Pod) { p.Spec.Priority = nil },
		"never":         func(p *corev1.Pod) { p.Spec.PreemptionPolicy = &never },
		"node":          func(p *corev1.Pod) { p.Spec.NodeName = "a" },
		"request":       func(p *corev1.Pod) { p.Spec.Containers[0].Resources.Requests = list("1", "1Gi", "") },
		"port":          hostPortPod("", 80, "TCP"),
		"container":     func(p *corev1.Pod) { p.Spec.Containers = append(p.Spec.Containers, p.Spec.Containers[0]) },
		"init":          func(p *corev1.Pod) { p.Spec.InitContainers[0].Resources.Requests = list("1", "", "") },
		"toleration":    func(p *corev1.Pod) { p.Spec.Tolerations[0].Key = "yours" },
		"selector":      func(p *corev1.Pod) { p.Spec.NodeSelector = map[string]string{"disk": "hdd"} },
		"affinity":      away("web", "zone"),
		"no affinity":   func(p *corev1.Pod) { p.Spec.Affinity = nil },
		"spread":        spreading(1, corev1.DoNotSchedule),
		"overhead":      func(p *corev1.Pod) { p.Spec.Overhead = list("20m", "", "") },
		"pod's request": func(p *corev1.Pod) { p.Spec.Resources.Requests = list("2", "", "") },
		"devices":       func(p *corev1.Pod) { p.Spec.ResourceClaims = []corev1.PodResourceClaim{{Name: "gpu"}} },
		"resized": func(p *corev1.Pod) {
			p.Status.ContainerStatuses = []corev1.ContainerStatus{{Resources: &corev1.ResourceRequirements{}}}
		},
	} {
		other := p.DeepCopy()
		change(other)
		if s.Alike(p, other) || s.Alike(other, p) {
			t.Errorf("alike although they differ: %s", name)
		}
	}
}

// The labels of pods that ask for no company count only while somebody keeps others away.
func TestAlikeButForLabels(t *testing.T) {
	s := snapshotOf(testNode("a", "1", "1Gi"))
	p := testPod("2", "", app("one"))
	other := another(p)
	app("two")(other)
	if !s.Alike(p, other) {
		t.Error("nobody asks for labels")
	}
	loner := testPod("", "", away("two", host))
	s.Nominate(loner, "a")
	if s.Alike(p, other) {
		t.Error("a pod to come keeps one of them away")
	}
	s.SetPod(bound(loner, "a"))
	if s.Alike(p, other) {
		t.Error("a pod keeps one of them away")
	}
}

// notRead are the parts of a pod's spec that no filter reads; claims' pods are not compared, and gates are gone.
var notRead = map[string]bool{
	"Volumes": true, "EphemeralContainers": true, "RestartPolicy": true, "TerminationGracePeriodSeconds": true, "ActiveDeadlineSeconds": true,
	"DNSPolicy": true, "ServiceAccountName": true, "DeprecatedServiceAccount": true, "AutomountServiceAccountToken": true, "HostNetwork": true,
	"HostPID": true, "HostIPC": true, "ShareProcessNamespace": true, "SecurityContext": true, "ImagePullSecrets": true, "Hostname": true,
	"Subdomain": true, "SchedulerName": true, "HostAliases": true, "PriorityClassName": true, "DNSConfig": true, "ReadinessGates": true,
	"RuntimeClassName": true, "EnableServiceLinks": true, "SetHostnameAsFQDN": true, "OS": true, "HostUsers": true, "SchedulingGates": true,
	"HostnameOverride": true, "SchedulingGroup": true, "EvictionResponders": true,
}

// TestAlikeKnowsAllFields: a field that Kubernetes adds to pods is to be compared, or to be listed as not read.
func TestAlikeKnowsAllFields(t *testing.T) {
	compared := map[string]bool{
		"Containers": true, "InitContainers": true, "NodeName": true, "NodeSelector": true, "Affinity": true, "Tolerations": true, "Priority": true,
		"PreemptionPolicy": true, "Overhead": true, "TopologySpreadConstraints": true, "ResourceClaims": true, "Resources": true,
	}
	for _, f := range reflect.VisibleFields(reflect.TypeFor[corev1.PodSpec]()) {
		if compared[f.Name] == notRead[f.Name] {
			t.Errorf("%s: is it read by a filter?", f.Name)
		}
	}
}
