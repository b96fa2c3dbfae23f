package sessions

import (
	"context"
	"log/slog"
	"maps"
	"net"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/whalepod/whalepod/master/internal/controllers/controllertest"
	agentv1 "github.com/whalepod/whalepod/proto/agent/v1"
)

func newServer(e *controllertest.Env, podCIDR string) *Server {
	c := Config{Cluster: &agentv1.ClusterConfig{PodCidr: podCIDR}, NodeMaskBits: 24, Logger: slog.New(slog.DiscardHandler)}
	if e != nil {
		c.Registry = e.Registry
	}
	return New(c)
}

func node(name, podCIDR string) *corev1.Node {
	return &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: corev1.NodeSpec{PodCIDR: podCIDR}}
}

func TestPodRanges(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := controllertest.New(t)
		s := newServer(e, "10.244.0.0/22")
		for _, c := range []struct{ name, wish, want string }{
			{"n1", "", "10.244.0.0/24"},
			{"n1", "10.244.3.0/24", "10.244.0.0/24"}, // has one
			{"n2", "10.244.2.0/24", "10.244.2.0/24"}, // had it before
			{"n3", "10.244.2.0/24", "10.244.1.0/24"}, // taken
			{"n4", "10.244.3.9/24", "10.244.3.0/24"}, // no range at all
		} {
			if got, err := s.register(e.Ctx, node(c.name, c.wish)); err != nil || got != c.want {
				t.Errorf("%s wants %q and gets %s, %v", c.name, c.wish, got, err)
			}
		}
		_, err := s.register(e.Ctx, node("n5", ""))
		if err == nil || !strings.Contains(err.Error(), "the pod range 10.244.0.0/22 has no free /24 for another node; start the master with a larger --pod-cidr") {
			t.Error(err)
		}
		for _, bad := range []string{"10.244.0.0/26", "fd00::/48"} {
			if _, err := newServer(e, bad).register(e.Ctx, node("n6", "")); err == nil || !strings.Contains(err.Error(), "has no room for the /24") {
				t.Errorf("%s: %v", bad, err)
			}
		}
		if _, err := controllertest.Find[*corev1.Node](e, "", "n6"); err == nil {
			t.Error("a node that got no range is there")
		}
	})
}

// A tunnel is handed over once, to whom waits for it, and to nobody who has given up.
func TestTunnelAnswer(t *testing.T) {
	s := newServer(nil, "10.244.0.0/16")
	p := &pendingTunnel{node: "n1", conn: make(chan net.Conn, 1)}
	s.tunnels["id"] = p
	near, far := net.Pipe()
	if s.answer("id", "n2", far) || s.answer("other", "n1", far) {
		t.Error("answered by another node, or another question")
	}
	if !s.answer("id", "n1", far) || s.answer("id", "n1", far) {
		t.Error("not answered once")
	}
	s.abandon("id", p)
	if _, err := near.Read(make([]byte, 1)); err == nil {
		t.Error("the connection of a tunnel that nobody took stays open")
	}
	s.tunnels["late"] = &pendingTunnel{node: "n1", conn: make(chan net.Conn, 1)}
	s.abandon("late", s.tunnels["late"])
	if s.answer("late", "n1", far) {
		t.Error("answered after its dialer gave up")
	}
}

func TestDialEndsWithTheSession(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newServer(nil, "10.244.0.0/16")
		if _, err := s.Dial(t.Context(), "n1"); err == nil || !strings.Contains(err.Error(), "node n1 has no session with the master") {
			t.Error(err)
		}
		ctx, cancel := context.WithCancelCause(t.Context())
		s.add(newSession(ctx, "n1", cancel))
		time.AfterFunc(time.Second, func() { cancel(nil) })
		began := time.Now()
		if _, err := s.Dial(t.Context(), "n1"); err == nil || time.Since(began) != time.Second || !strings.Contains(err.Error(), "the session of node n1 ended") {
			t.Errorf("%v after %v", err, time.Since(began))
		}
		if len(s.tunnels) != 0 {
			t.Error("a tunnel is still waited for")
		}
	})
}

// A session that breaks some time after its node was last heard of says nothing new of the node.
func TestHeardOutlivesTheSession(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newServer(nil, "10.244.0.0/16")
		if !s.Heard("n1").IsZero() {
			t.Error("heard of a node that was never here")
		}
		ctx, cancel := context.WithCancelCause(t.Context())
		defer cancel(nil)
		n := newSession(ctx, "n1", cancel)
		s.add(n)
		time.Sleep(2 * time.Second)
		s.heard(n)
		last := time.Now()
		time.Sleep(5 * time.Second)
		s.remove(n)
		if got := s.Heard("n1"); !got.Equal(last) || s.Alive()["n1"] {
			t.Errorf("last heard at %s, want %s; alive %v", got, last, s.Alive())
		}
	})
}

// A machine that comes back with another address waits until it is sure that nobody answers at the former one.
func TestSecondMachine(t *testing.T) {
	for _, c := range []struct {
		name  string
		first func(s *Server, n *session)
		m     machine
		after time.Duration
		err   string
	}{
		{"the same", func(*Server, *session) {}, machine{"id", "192.0.2.1"}, 0, ""},
		{"the first is silent", func(*Server, *session) {}, machine{"id", "192.0.2.2"}, GoneAfter - time.Second, ""},
		{"the first ends", func(s *Server, n *session) { n.cancel(nil); s.remove(n) }, machine{"id", "192.0.2.2"}, HeartbeatEvery / 2, ""},
		{"the first lives", func(s *Server, n *session) { s.heard(n) }, machine{"id", "192.0.2.2"}, HeartbeatEvery, "another machine (192.0.2.1) is connected as node n1"},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newServer(nil, "10.244.0.0/16")
				ctx, cancel := context.WithCancelCause(t.Context())
				defer cancel(nil)
				n := newSession(ctx, "n1", cancel)
				n.machine = machine{"id", "192.0.2.1"}
				s.add(n)
				time.Sleep(time.Second)
				began := time.Now()
				time.AfterFunc(HeartbeatEvery/2, func() { c.first(s, n) })
				err := s.checkMachine(t.Context(), "n1", c.m)
				if took := time.Since(began); took < c.after-HeartbeatEvery/2 || took > c.after {
					t.Errorf("that took %s, want %s", took, c.after)
				}
				if (err == nil) != (c.err == "") || err != nil && !strings.Contains(err.Error(), c.err) {
					t.Error(err)
				}
			})
		})
	}
}

func TestMergePodStatus(t *testing.T) {
	early, late := metav1.Unix(100, 0), metav1.Unix(200, 0)
	into := &corev1.PodStatus{
		QOSClass: corev1.PodQOSBurstable, StartTime: &early, Conditions: []corev1.PodCondition{
			{Type: corev1.PodScheduled, Status: corev1.ConditionTrue}, {Type: corev1.PodReady, Status: corev1.ConditionFalse}, {Type: "gate", Status: corev1.ConditionTrue},
			{Type: corev1.AllContainersRestarting, Status: corev1.ConditionTrue},
		},
	}
	mergePodStatus(into, &corev1.PodStatus{Phase: corev1.PodRunning, StartTime: &late, Conditions: []corev1.PodCondition{
		{Type: corev1.PodReady, Status: corev1.ConditionTrue}, {Type: corev1.PodScheduled, Status: corev1.ConditionFalse}, {Type: "gate", Status: corev1.ConditionFalse},
		{Type: corev1.AllContainersRestarting, Status: corev1.ConditionFalse},
	}})
	got := ""
	for _, c := range into.Conditions {
		got += string(c.Type) + "=" + string(c.Status) + " "
	}
	if got != "Ready=True AllContainersRestarting=False PodScheduled=True gate=True " || into.QOSClass != corev1.PodQOSBurstable || *into.StartTime != early || into.Phase != corev1.PodRunning {
		t.Errorf("%s %+v", got, into)
	}
}

func TestLabelsOfANode(t *testing.T) {
	into := map[string]string{"kubernetes.io/hostname": "old", "role": "db"}
	copyOwnLabels(into, map[string]string{"kubernetes.io/hostname": "n1", "kubernetes.io/arch": "arm64", "role": "web", "admin": "yes"})
	want := map[string]string{"kubernetes.io/hostname": "n1", "kubernetes.io/arch": "arm64", "role": "db"}
	if !maps.Equal(into, want) {
		t.Errorf("%v, want %v: labels of the admin's were taken from the node", into, want)
	}
}

// What an agent that has just started does not know yet stays as it was told before.
func TestUnsaidOfANode(t *testing.T) {
	disk, memory, dongles := resource.MustParse("10Gi"), resource.MustParse("1Gi"), resource.MustParse("2")
	into := &corev1.NodeStatus{
		Capacity:   corev1.ResourceList{"ephemeral-storage": disk, "memory": disk, "cpu": dongles, "example.com/dongle": dongles},
		NodeInfo:   corev1.NodeSystemInfo{ContainerRuntimeVersion: "docker://28.5.2", KubeletVersion: "old"},
		Conditions: []corev1.NodeCondition{{Type: corev1.NodeReady, Status: corev1.ConditionTrue}, {Type: corev1.NodeDiskPressure, Status: corev1.ConditionTrue}},
		Images:     []corev1.ContainerImage{{SizeBytes: 1}},
	}
	mergeNodeStatus(into, &corev1.NodeStatus{
		Capacity: corev1.ResourceList{"memory": memory}, NodeInfo: corev1.NodeSystemInfo{KubeletVersion: "new"},
		Conditions: []corev1.NodeCondition{{Type: corev1.NodeDiskPressure, Status: corev1.ConditionFalse}},
	})
	want := &corev1.NodeStatus{
		Capacity:   corev1.ResourceList{"ephemeral-storage": disk, "memory": memory, "example.com/dongle": dongles},
		NodeInfo:   corev1.NodeSystemInfo{ContainerRuntimeVersion: "docker://28.5.2", KubeletVersion: "new"},
		Conditions: []corev1.NodeCondition{{Type: corev1.NodeDiskPressure, Status: corev1.ConditionFalse}, {Type: corev1.NodeReady, Status: corev1.ConditionTrue}},
		Images:     []corev1.ContainerImage{{SizeBytes: 1}},
	}
	if !apiequality.Semantic.DeepEqual(into, want) {
		t.Errorf("%+v\nwant %+v", into, want)
	}
}
