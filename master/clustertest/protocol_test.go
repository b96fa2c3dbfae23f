package clustertest

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/whalepod/whalepod/node/session"
)

func TestJoinWords(t *testing.T) {
	run(t, 1, func(c *cluster) {
		for name, change := range map[string]func(*corev1.Secret){
			"past00": func(s *corev1.Secret) {
				s.StringData["expiration"] = time.Now().Add(-time.Minute).UTC().Format(time.RFC3339)
			},
			"other0": func(s *corev1.Secret) { delete(s.StringData, "usage-bootstrap-authentication") },
			"broken": func(s *corev1.Secret) { s.StringData["expiration"] = "tomorrow" },
		} {
			s := &corev1.Secret{
				ObjectMeta: metav1.ObjectMeta{Name: "bootstrap-token-" + name}, Type: "bootstrap.kubernetes.io/token",
				StringData: map[string]string{"token-id": name, "token-secret": "0123456789abcdef", "usage-bootstrap-authentication": "true"},
			}
			change(s)
			if _, err := c.kube.CoreV1().Secrets("kube-system").Create(c.ctx, s, metav1.CreateOptions{}); err != nil {
				t.Fatal(err)
			}
		}
		good := session.JoinOptions{Master: "127.0.0.1:6444", Token: token, NodeName: "n9", CAHash: c.caHash(), Dial: c.dialNodes}
		for _, test := range []struct {
			change func(*session.JoinOptions)
			want   string
		}{
			{func(o *session.JoinOptions) { o.Token = "abc" }, "the join token is malformed: it looks like abcdef.0123456789abcdef; make one with `wpctl token create`"},
			{func(o *session.JoinOptions) { o.Token = "abcdef.0123456789abcdeX" }, "is not known: it was mistyped or deleted"},
			{func(o *session.JoinOptions) { o.Token = "nobody.0123456789abcdef" }, "is not known"},
			{func(o *session.JoinOptions) { o.Token = "past00.0123456789abcdef" }, "expired at "},
			{func(o *session.JoinOptions) { o.Token = "broken.0123456789abcdef" }, "expired at tomorrow"},
			{func(o *session.JoinOptions) { o.Token = "other0.0123456789abcdef" }, "is not for joining"},
			{func(o *session.JoinOptions) { o.CAHash = "sha256:" + strings.Repeat("0", 64) }, "wrong --ca-hash, or somebody stands in between"},
			{func(o *session.JoinOptions) { o.CAHash = "" }, "wrong --ca-hash"},
			{func(o *session.JoinOptions) { o.NodeName = "No_Name" }, `node name "No_Name": `},
			{func(o *session.JoinOptions) { o.NodeName = "" }, "--node-name"},
			{func(o *session.JoinOptions) { o.NodeName = "n1" }, "a node named n1 is in the cluster and alive; give this machine another name with --node-name"},
		} {
			o := good
			test.change(&o)
			dir := filepath.Join(c.dir, "joining")
			_, err := session.Join(c.ctx, dir, o)
			if err == nil || !strings.Contains(err.Error(), test.want) || !strings.Contains(err.Error(), "the master at 127.0.0.1:6444 did not let this machine join") {
				t.Errorf("%v\nwant: %s", err, test.want)
			}
			if _, err := session.LoadIdentity(dir); err != session.ErrNotJoined {
				t.Errorf("refused, but an identity is there: %v", err)
			}
		}
		if _, err := session.Join(c.ctx, filepath.Join(c.dir, "joining"), good); err != nil {
			t.Error(err)
		}
		if info, err := os.Stat(filepath.Join(c.dir, "joining", "identity.json")); err != nil || info.Mode() != 0o600 {
			t.Error(info, err)
		}
	})
}

// A machine copied with its identity does not take the name from the first, and says why it waits.
func TestTwoMachinesOfOneName(t *testing.T) {
	run(t, 1, func(c *cluster) {
		first := c.agents["n1"]
		copied := &agent{c: c, name: "n1", dir: filepath.Join(c.dir, "copy"), engine: first.engine, mounts: &mounter{}, net: &network{node: 7, attached: map[string]string{}}, stop: func() {}}
		copied.conns = first.conns
		if err := os.CopyFS(copied.dir, os.DirFS(first.dir)); err != nil {
			t.Fatal(err)
		}
		before := first.dialled()
		c.agents["copy"] = copied
		c.start(copied)
		time.Sleep(time.Minute)
		if n := first.dialled() - before; n != 0 {
			t.Errorf("the first lost its session %d times", n)
		}
		if n := copied.dialled(); n < 8 || n > 30 {
			t.Errorf("the copy tried %d times in a minute", n)
		}
		first.stop() // now the copy is the node
		c.eventually(20*time.Second, "the copy's address", func() bool { return c.nodeAddress("n1") == copied.address() })
	})
}

func (a *agent) dialled() int {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.dials
}

func (c *cluster) nodeAddress(name string) string {
	n, err := c.kube.CoreV1().Nodes().Get(c.ctx, name, metav1.GetOptions{})
	if err != nil {
		c.Fatal(err)
	}
	return n.Status.Addresses[0].Address
}

// pinned is a pod on a node of the test's choice.
func pinned(name, node string) *corev1.Pod {
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{"app": name}},
		Spec:       corev1.PodSpec{NodeName: node, Containers: []corev1.Container{{Name: "web", Image: "nginx:1"}}},
	}
}

func (c *cluster) createPod(p *corev1.Pod) *corev1.Pod {
	c.Helper()
	out, err := c.kube.CoreV1().Pods("default").Create(c.ctx, p, metav1.CreateOptions{})
	if err != nil {
		c.Fatal(err)
	}
	return out
}

func (c *cluster) deletePod(name string, grace int64) {
	c.Helper()
	if err := c.kube.CoreV1().Pods("default").Delete(c.ctx, name, metav1.DeleteOptions{GracePeriodSeconds: &grace}); err != nil {
		c.Fatal(err)
	}
}

func (c *cluster) running(name string) bool {
	p, err := c.kube.CoreV1().Pods("default").Get(c.ctx, name, metav1.GetOptions{})
	return err == nil && isReady(p)
}

// told waits until an agent knows exactly this.
func (c *cluster) told(a *agent, want string, names ...string) {
	c.Helper()
	c.eventually(5*time.Second, a.name+" knows "+want, func() bool { return a.told(names...) == want })
}

func TestANodeIsToldOnlyWhatItNeeds(t *testing.T) {
	run(t, 2, func(c *cluster) {
		n1, n2 := c.agents["n1"], c.agents["n2"]
		for _, name := range []string{"password", "other"} {
			if _, err := c.kube.CoreV1().Secrets("default").Create(c.ctx, &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: name}, StringData: map[string]string{"k": "v"}}, metav1.CreateOptions{}); err != nil {
				t.Fatal(err)
			}
		}
		p := pinned("p1", "n1")
		p.Spec.Containers[0].EnvFrom = []corev1.EnvFromSource{{SecretRef: &corev1.SecretEnvSource{LocalObjectReference: corev1.LocalObjectReference{Name: "password"}}}}
		c.createPod(p)
		c.told(n1, "secret/password pod/p1", "password", "other")
		c.told(n2, "", "password", "other")
		// A second user of it, elsewhere; then a ConfigMap that is made after the pod that wants it.
		q := pinned("p2", "n2")
		q.Spec.Volumes = []corev1.Volume{{Name: "v", VolumeSource: corev1.VolumeSource{Projected: &corev1.ProjectedVolumeSource{Sources: []corev1.VolumeProjection{
			{Secret: &corev1.SecretProjection{LocalObjectReference: corev1.LocalObjectReference{Name: "password"}}},
			{ConfigMap: &corev1.ConfigMapProjection{LocalObjectReference: corev1.LocalObjectReference{Name: "late"}}},
		}}}}}
		c.createPod(q)
		c.told(n2, "secret/password pod/p2", "password", "other", "late")
		if _, err := c.kube.CoreV1().ConfigMaps("default").Create(c.ctx, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "late"}}, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
		c.told(n2, "secret/password configmap/late pod/p2", "password", "late")
		c.told(n1, "secret/password pod/p1", "password", "late")
		c.deletePod("p1", 0)
		c.told(n1, "", "password")
		if err := c.kube.CoreV1().Secrets("default").Delete(c.ctx, "password", metav1.DeleteOptions{}); err != nil {
			t.Fatal(err)
		}
		c.told(n2, "configmap/late pod/p2", "password", "late")
		if nodes := n1.state.Nodes(); len(nodes) != 2 || nodes[1].Status.NodeInfo.MachineID != "" || len(nodes[1].Status.Conditions) > 1 { // whether it is ready
			t.Errorf("peers: %+v", nodes)
		}
	})
}

// What was deleted while an agent was away goes when its next session begins.
func TestCompleteSnapshotRemovesWhatIsStale(t *testing.T) {
	run(t, 1, func(c *cluster) {
		a := c.agents["n1"]
		for _, name := range []string{"a", "b"} {
			c.createPod(pinned(name, "n1"))
		}
		c.eventually(10*time.Second, "both run", func() bool { return c.running("a") && c.running("b") })
		a.cable(false)
		c.deletePod("a", 0)
		time.Sleep(time.Minute)
		if a.told() != "pod/a pod/b" {
			t.Error("without a session the agent knows", a.told())
		}
		a.cable(true)
		c.eventually(10*time.Second, "only b", func() bool { return a.told() == "pod/b" })
		// The master too goes away and comes back; nothing is lost, nothing is touched.
		containers := a.engine.Calls("CreateContainer")
		c.restartMaster(20 * time.Second)
		c.eventually(15*time.Second, "a session", func() bool { return c.running("b") && a.told() == "pod/b" })
		time.Sleep(time.Minute)
		if n := a.engine.Calls("CreateContainer") - containers; n != 0 {
			t.Errorf("%d containers were made anew", n)
		}
	})
}

func TestReconnectBacksOff(t *testing.T) {
	run(t, 1, func(c *cluster) {
		a := c.agents["n1"]
		before := a.dialled()
		a.cable(false)
		time.Sleep(10 * time.Minute)
		if n := a.dialled() - before; n < 80 || n > 300 {
			t.Errorf("%d attempts in ten minutes", n)
		}
		a.cable(true)
		c.eventually(8*time.Second, "a session", func() bool {
			c.createOnce("probe", "n1")
			return a.told() == "pod/probe"
		})
	})
}

func (c *cluster) createOnce(name, node string) {
	_, _ = c.kube.CoreV1().Pods("default").Create(c.ctx, pinned(name, node), metav1.CreateOptions{})
}

func TestStatusOnlyOfOwnPods(t *testing.T) {
	run(t, 2, func(c *cluster) {
		n2 := c.agents["n2"]
		p := c.createPod(pinned("p1", "n1"))
		c.eventually(10*time.Second, "it runs", func() bool { return c.running("p1") })
		own := c.createPod(pinned("p2", "n2"))
		c.eventually(10*time.Second, "it runs", func() bool { return c.running("p2") })
		failed := func() *corev1.PodStatus { return &corev1.PodStatus{Phase: corev1.PodFailed} }
		n2.outbox.Pod("default", "p1", p.UID, failed())          // of another node
		n2.outbox.Pod("default", "p2", types.UID("x"), failed()) // another pod of that name
		n2.outbox.Pod("default", "nobody", "y", failed())
		n2.outbox.Gone("default", "p1", p.UID)
		n2.outbox.Gone("default", "p2", own.UID) // nobody deletes it
		for _, pod := range []*corev1.Pod{p, own} {
			n2.outbox.Event(session.Event{Kind: "Pod", Namespace: "default", Name: pod.Name, UID: string(pod.UID), Type: "Normal", Reason: "Said", Message: "by n2"})
		}
		time.Sleep(5 * time.Second)
		for _, name := range []string{"p1", "p2"} {
			if !c.running(name) {
				t.Errorf("%s was harmed", name)
			}
		}
		said, err := c.kube.CoreV1().Events("default").List(c.ctx, metav1.ListOptions{FieldSelector: "reason=Said"})
		if err != nil || len(said.Items) != 1 || said.Items[0].InvolvedObject.Name != "p2" {
			t.Errorf("a node told of a pod that is not its own: %+v, %v", said, err)
		}
		got, err := c.kube.CoreV1().Pods("default").Get(c.ctx, "p2", metav1.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}
		// A condition that somebody else sets stays through the agent's reports.
		got.Status.Conditions = append(got.Status.Conditions, corev1.PodCondition{Type: "example.com/gate", Status: corev1.ConditionTrue})
		if _, err := c.kube.CoreV1().Pods("default").UpdateStatus(c.ctx, got, metav1.UpdateOptions{}); err != nil {
			t.Fatal(err)
		}
		status := got.Status.DeepCopy()
		status.Conditions = []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionFalse}}
		n2.outbox.Pod("default", "p2", own.UID, status)
		c.eventually(5*time.Second, "not ready", func() bool { return !c.running("p2") })
		got, _ = c.kube.CoreV1().Pods("default").Get(c.ctx, "p2", metav1.GetOptions{})
		found := false
		for _, cond := range got.Status.Conditions {
			found = found || cond.Type == "example.com/gate"
		}
		if !found || got.Status.QOSClass == "" {
			t.Errorf("conditions of others: %+v", got.Status)
		}
	})
}

// TestNodesTellOfServices: any node, of a Service that there is.
func TestNodesTellOfServices(t *testing.T) {
	run(t, 1, func(c *cluster) {
		svc, err := c.kube.CoreV1().Services("default").Create(c.ctx, &corev1.Service{
			ObjectMeta: metav1.ObjectMeta{Name: "web"}, Spec: corev1.ServiceSpec{Ports: []corev1.ServicePort{{Port: 80}}},
		}, metav1.CreateOptions{})
		if err != nil {
			t.Fatal(err)
		}
		for _, uid := range []string{string(svc.UID), "of another that had its name"} {
			c.agents["n1"].outbox.Event(session.Event{Kind: "Service", Namespace: "default", Name: "web", UID: uid, Type: "Normal", Reason: "NodeAssigned", Message: "for " + uid})
		}
		c.agents["n1"].outbox.Event(session.Event{Kind: "Service", Namespace: "default", Name: "nothing", Type: "Normal", Reason: "NodeAssigned"})
		time.Sleep(5 * time.Second)
		told, err := c.kube.CoreV1().Events("default").List(c.ctx, metav1.ListOptions{FieldSelector: "reason=NodeAssigned"})
		if err != nil || len(told.Items) != 1 {
			t.Fatalf("%+v, %v", told, err)
		}
		if e := told.Items[0]; e.InvolvedObject.Kind != "Service" || e.InvolvedObject.UID != svc.UID || e.Source.Host != "n1" {
			t.Errorf("%+v", e)
		}
	})
}

// The outbox keeps what the master has not acknowledged, merged, until it can.
func TestReportsSurviveTheMaster(t *testing.T) {
	run(t, 1, func(c *cluster) {
		a := c.agents["n1"]
		c.createPod(pinned("p1", "n1"))
		c.eventually(10*time.Second, "it runs", func() bool { return c.running("p1") })
		p, err := c.kube.CoreV1().Pods("default").Get(c.ctx, "p1", metav1.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}
		c.stopMaster()
		for i := range 50 {
			s := p.Status.DeepCopy()
			s.Message = fmt.Sprint("report ", i)
			a.outbox.Pod("default", "p1", p.UID, s)
			a.outbox.Event(session.Event{Kind: "Pod", Namespace: "default", Name: "p1", UID: string(p.UID), Type: "Normal", Reason: "Test", Message: fmt.Sprint("event ", i%5)})
			time.Sleep(time.Second)
		}
		c.startMaster()
		c.eventually(15*time.Second, "the last report", func() bool {
			got, err := c.kube.CoreV1().Pods("default").Get(c.ctx, "p1", metav1.GetOptions{})
			return err == nil && got.Status.Message == "report 49"
		})
		c.eventually(5*time.Second, "all events", func() bool {
			list, err := c.kube.CoreV1().Events("default").List(c.ctx, metav1.ListOptions{FieldSelector: "reason=Test"})
			if err != nil || len(list.Items) != 5 {
				return false
			}
			for _, ev := range list.Items {
				if ev.Count != 10 || ev.Source.Host != "n1" || ev.LastTimestamp.Sub(ev.FirstTimestamp.Time) != 45*time.Second {
					t.Errorf("%s: %d times, %v–%v", ev.Message, ev.Count, ev.FirstTimestamp, ev.LastTimestamp)
				}
			}
			return true
		})
	})
}

// After eight months at rest both the master's and the node's certificate are renewed.
func TestCertificatesAreRenewed(t *testing.T) {
	run(t, 1, func(c *cluster) {
		a := c.agents["n1"]
		first, err := session.LoadIdentity(a.dir)
		if err != nil {
			t.Fatal(err)
		}
		a.stop() // heartbeats of months take long even in virtual time
		c.stopMaster()
		time.Sleep(250 * 24 * time.Hour)
		c.startMaster()
		c.start(a)
		c.eventually(time.Minute, "another certificate", func() bool {
			now, err := session.LoadIdentity(a.dir)
			return err == nil && now.Certificate != first.Certificate && now.Node == "n1" && now.PodCIDR == first.PodCIDR
		})
		a.cable(false)
		a.cable(true)
		c.createPod(pinned("p1", "n1"))
		c.eventually(30*time.Second, "it runs", func() bool { return c.running("p1") })
	})
}

// An agent that takes nothing from its connection harms nobody and gets the present state later, not the history.
func TestManyChangesAndASlowAgent(t *testing.T) {
	run(t, 2, func(c *cluster) {
		slow := c.agents["n2"]
		c.createPod(func() *corev1.Pod {
			p := pinned("p1", "n2")
			p.Spec.Containers[0].EnvFrom = []corev1.EnvFromSource{{ConfigMapRef: &corev1.ConfigMapEnvSource{LocalObjectReference: corev1.LocalObjectReference{Name: "big"}}}}
			return p
		}())
		cm := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "big"}, Data: map[string]string{"x": strings.Repeat("x", 200<<10)}}
		cm, err := c.kube.CoreV1().ConfigMaps("default").Create(c.ctx, cm, metav1.CreateOptions{})
		if err != nil {
			t.Fatal(err)
		}
		for i := range 60 {
			cm.Data["i"] = fmt.Sprint(i)
			if cm, err = c.kube.CoreV1().ConfigMaps("default").Update(c.ctx, cm, metav1.UpdateOptions{}); err != nil {
				t.Fatal(err)
			}
		}
		c.eventually(10*time.Second, "the last state", func() bool {
			got, ok := slow.state.ConfigMap("default", "big")
			return ok && got.Data["i"] == "59"
		})
	})
}
