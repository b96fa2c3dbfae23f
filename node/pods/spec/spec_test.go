package spec

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/whalepod/whalepod/node/runtime"
)

func ref[T any](v T) *T { return &v }

func input(podSC *corev1.PodSecurityContext, sc *corev1.SecurityContext) Input {
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "p", Namespace: "ns", UID: "u"}, Spec: corev1.PodSpec{SecurityContext: podSC, Containers: []corev1.Container{{Name: "c", Image: "img", SecurityContext: sc}}}}
	return Input{Pod: pod, Container: &pod.Spec.Containers[0], SandboxID: "sb"}
}

func TestNonRoot(t *testing.T) {
	yes := ref(true)
	for _, tt := range []struct {
		pod   *corev1.PodSecurityContext
		c     *corev1.SecurityContext
		image string
		err   string
		user  string
	}{
		{nil, nil, "", "", ""},
		{nil, &corev1.SecurityContext{RunAsNonRoot: yes}, "", "image will run as root", ""},
		{nil, &corev1.SecurityContext{RunAsNonRoot: yes}, "0:5", "image will run as root", ""},
		{nil, &corev1.SecurityContext{RunAsNonRoot: yes}, "www", `non-numeric user (www), cannot verify user is non-root (pod: "p_ns(u)", container: c)`, ""},
		{nil, &corev1.SecurityContext{RunAsNonRoot: yes}, "33", "", ""},
		{&corev1.PodSecurityContext{RunAsNonRoot: yes, RunAsUser: ref(int64(7))}, nil, "", "", "7"},
		{&corev1.PodSecurityContext{RunAsNonRoot: yes, RunAsUser: ref(int64(7))}, &corev1.SecurityContext{RunAsUser: ref(int64(0))}, "", "container's runAsUser breaks non-root policy", ""},
		{&corev1.PodSecurityContext{RunAsUser: ref(int64(7)), RunAsGroup: ref(int64(8))}, nil, "", "", "7:8"},
		{&corev1.PodSecurityContext{RunAsGroup: ref(int64(8))}, nil, "", "", "0:8"},
		{&corev1.PodSecurityContext{RunAsGroup: ref(int64(8))}, nil, "www:www", "", "www:8"},
	} {
		in := input(tt.pod, tt.c)
		in.Image.User = tt.image
		s, err := Container(in)
		if tt.err != "" {
			if err == nil || !strings.Contains(err.Error(), tt.err) {
				t.Errorf("%+v: %v", tt, err)
			}
		} else if err != nil || s.User != tt.user {
			t.Errorf("%+v: user %q, %v", tt, s.User, err)
		}
	}
}

func TestContainer(t *testing.T) {
	in := input(&corev1.PodSecurityContext{FSGroup: ref(int64(5)), SupplementalGroups: []int64{6}, SeccompProfile: &corev1.SeccompProfile{Type: "Localhost", LocalhostProfile: ref("a.json")}},
		&corev1.SecurityContext{Privileged: ref(true), ReadOnlyRootFilesystem: ref(true), AllowPrivilegeEscalation: ref(false), ProcMount: ref(corev1.UnmaskedProcMount),
			Capabilities: &corev1.Capabilities{Add: []corev1.Capability{"NET_ADMIN"}, Drop: []corev1.Capability{"ALL"}}})
	in.Container.Command, in.Container.Args = []string{"$(A)", "$$(A)"}, []string{"6"}
	in.Container.Resources = corev1.ResourceRequirements{Limits: corev1.ResourceList{"cpu": resource.MustParse("500m"), "memory": resource.MustParse("64Mi")}, Requests: corev1.ResourceList{"cpu": resource.MustParse("250m"), "memory": resource.MustParse("64Mi")}}
	in.Env, in.NodeMemory = []string{"A=x"}, 640<<20
	got, err := Container(in)
	want := runtime.ContainerSpec{
		SandboxID: "sb", Pod: runtime.PodRef{Namespace: "ns", Name: "p", UID: "u"}, Name: "c", Image: "img",
		Command: []string{"x", "$(A)"}, Args: []string{"6"}, Env: []string{"A=x"},
		Resources:  runtime.Resources{MemoryBytes: 64 << 20, CPUShares: 256, CPUQuota: 50000, CPUPeriod: 100000, OOMScoreAdj: 900},
		Privileged: true, ReadOnlyRootFS: true, NoNewPrivileges: true, MaskedPathsOff: true,
		SupplementalGroups: []int64{5, 6}, CapAdd: []string{"NET_ADMIN"}, CapDrop: []string{"ALL"},
		SeccompProfile: "localhost//var/lib/kubelet/seccomp/a.json",
		Labels:         map[string]string{LabelHash: Hash(in.Container), LabelSandbox: "sb", LabelGrace: "30"},
	}
	if diff := cmp.Diff(want, got); err != nil || diff != "" {
		t.Error(err, diff)
	}
	other := *in.Container
	other.Image = "img:2"
	if Hash(&other) == Hash(in.Container) {
		t.Error("another image has the same hash")
	}
}

func TestResources(t *testing.T) {
	list := func(cpu, mem string) corev1.ResourceList {
		return corev1.ResourceList{"cpu": resource.MustParse(cpu), "memory": resource.MustParse(mem)}
	}
	for _, tt := range []struct {
		r    corev1.ResourceRequirements
		want runtime.Resources
	}{
		{corev1.ResourceRequirements{}, runtime.Resources{CPUShares: 2, OOMScoreAdj: 1000}},
		{corev1.ResourceRequirements{Limits: list("1m", "1Mi")}, runtime.Resources{CPUShares: 2, CPUQuota: 1000, CPUPeriod: 100000, MemoryBytes: 1 << 20, OOMScoreAdj: -997}},
		{corev1.ResourceRequirements{Requests: list("2", "1Ki")}, runtime.Resources{CPUShares: 2048, OOMScoreAdj: 999}},
		{corev1.ResourceRequirements{Requests: list("2", "1Gi")}, runtime.Resources{CPUShares: 2048, OOMScoreAdj: 3}},
	} {
		pod := &corev1.Pod{Spec: corev1.PodSpec{Containers: []corev1.Container{{Resources: tt.r}}}}
		if diff := cmp.Diff(tt.want, Resources(pod, &pod.Spec.Containers[0], 1<<30)); diff != "" {
			t.Error(diff)
		}
	}
}
