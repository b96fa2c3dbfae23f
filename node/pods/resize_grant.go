package pods

import (
	"cmp"
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	helper "k8s.io/component-helpers/resource"

	"github.com/whalepod/whalepod/node/pods/admit"
	"github.com/whalepod/whalepod/node/pods/status"
)

// grant is what the node has promised a pod. While a resize waits for room it is less than the pod asks for. The kubelet
// calls it the allocation (KEP 1287).
type grant struct {
	Containers map[string]corev1.ResourceRequirements `json:"containers"`
	Pod        *corev1.ResourceRequirements           `json:"pod,omitempty"`
	// Restarting are the containers, by name with the ID of the attempt, that are ended for their resize and start again
	// whatever their restart policy is.
	Restarting map[string]string `json:"restarting,omitempty"`
	// Again are likewise those that are ended for another reason.
	Again map[string]string `json:"again,omitempty"`
	// All are likewise those that are restarted because all containers of the pod are, init containers included.
	All map[string]string `json:"all,omitempty"`
}

// grantOf is all that the pod asks for.
func grantOf(pod *corev1.Pod) *grant {
	g := &grant{Containers: map[string]corev1.ResourceRequirements{}, Pod: pod.Spec.Resources}
	for _, list := range [][]corev1.Container{pod.Spec.InitContainers, pod.Spec.Containers} {
		for i := range list {
			g.Containers[list[i].Name] = list[i].Resources
		}
	}
	return g
}

// grantIn is what an agent before this one had granted, as its last status tells: before the first resize that is what the
// containers have. nil when the status does not say.
func grantIn(pod *corev1.Pod, s *corev1.PodStatus) *grant {
	g := &grant{Containers: map[string]corev1.ResourceRequirements{}, Pod: pod.Spec.Resources}
	for _, list := range [][]corev1.ContainerStatus{s.InitContainerStatuses, s.ContainerStatuses} {
		for i := range list {
			if r := list[i].Resources; r != nil {
				g.Containers[list[i].Name] = *r
			}
		}
	}
	if len(g.Containers) == 0 {
		return nil
	}
	return g
}

// over is the pod with what it has been granted in place of what it asks for; the pod itself when that is the same.
func (g *grant) over(pod *corev1.Pod) *corev1.Pod {
	if g == nil {
		return pod
	}
	out := pod
	change := func() {
		if out == pod {
			out = pod.DeepCopy()
		}
	}
	if !equality.Semantic.DeepEqual(g.Pod, pod.Spec.Resources) {
		change()
		out.Spec.Resources = g.Pod
	}
	for i := range pod.Spec.InitContainers {
		c := &pod.Spec.InitContainers[i]
		if r, ok := g.Containers[c.Name]; ok && !equality.Semantic.DeepEqual(r, c.Resources) {
			change()
			out.Spec.InitContainers[i].Resources = r
		}
	}
	for i := range pod.Spec.Containers {
		c := &pod.Spec.Containers[i]
		if r, ok := g.Containers[c.Name]; ok && !equality.Semantic.DeepEqual(r, c.Resources) {
			change()
			out.Spec.Containers[i].Resources = r
		}
	}
	return out
}

// restarting is the pod in which containers that are ended to start again always do.
func (g *grant) restarting(pod *corev1.Pod) *corev1.Pod {
	if g == nil || len(g.Restarting)+len(g.Again)+len(g.All) == 0 {
		return pod
	}
	out := pod.DeepCopy()
	always := corev1.ContainerRestartPolicyAlways
	for i := range out.Spec.Containers {
		if c := &out.Spec.Containers[i]; g.Restarting[c.Name]+g.Again[c.Name]+g.All[c.Name] != "" {
			c.RestartPolicy = &always
		}
	}
	onFailure := corev1.ContainerRestartPolicyOnFailure // Always would make it a sidecar
	for i := range out.Spec.InitContainers {
		if c := &out.Spec.InitContainers[i]; g.All[c.Name] != "" && !status.Sidecar(c) {
			c.RestartPolicy = &onFailure
		}
	}
	return out
}

func (m *Manager) grantFile(uid string) string {
	return filepath.Join(m.cfg.DataDir, "grants", filepath.Base(uid))
}

// saveGrant keeps what a resize was granted; without such a file the status tells what the pod has.
func (w *worker) saveGrant() {
	file := w.m.grantFile(w.uid)
	data, err := json.Marshal(w.granted)
	if err == nil {
		if err = os.MkdirAll(filepath.Dir(file), 0o700); err == nil {
			if err = os.WriteFile(file+".tmp", data, 0o600); err == nil {
				err = os.Rename(file+".tmp", file)
			}
		}
	}
	if err != nil {
		w.log.Warn("what the pod was granted could not be kept on disk", "err", err)
	}
}

// recallGrant finds out what the agent before this one granted the pod, and what its containers run with.
func (w *worker) recallGrant(pod *corev1.Pod) {
	data, err := os.ReadFile(w.m.grantFile(w.uid))
	if g := new(grant); err == nil && json.Unmarshal(data, g) == nil {
		w.granted = g
		g.forgetPast(w.observed)
	} else {
		w.granted = grantIn(pod, &w.last)
	}
	for _, list := range [][]corev1.ContainerStatus{w.last.InitContainerStatuses, w.last.ContainerStatuses} {
		for i := range list {
			s := &list[i]
			if id, ok := status.EngineID(s.ContainerID); ok && s.Resources != nil && s.State.Running != nil {
				w.actuated[id] = *s.Resources
			}
		}
	}
	for i := range w.last.Conditions {
		if c := w.last.Conditions[i]; c.Type == corev1.PodResizeInProgress {
			w.progress = &c
		} else if c.Type == corev1.PodResizePending {
			w.pending = &c
		}
	}
}

func (m *Manager) dropGrant(uid string) { _ = os.Remove(m.grantFile(uid)) }

// ask for a resize: what the pod wants, and since when.
type ask struct {
	w     *worker
	pod   *corev1.Pod
	since time.Time
}

// answer to the ask of one generation of a pod; granted when no is nil.
type answer struct {
	generation int64
	no         *admit.Refusal
}

// askResize puts the pod's resize up for decision. The answer may come at once or later; the worker is woken.
func (m *Manager) askResize(w *worker, pod, has *corev1.Pod) {
	m.admit.Lock()
	defer m.admit.Unlock()
	w.mu.Lock()
	w.placed = has // an older ask may have been granted and not be wanted any more
	w.mu.Unlock()
	since := time.Now()
	if a := m.asks[w.uid]; a != nil {
		since = a.since
	}
	m.asks[w.uid] = &ask{w, pod, since}
	m.decideResizes()
}

// withdrawResize forgets an ask; what else waits is decided anew when room may have been made.
func (m *Manager) withdrawResize(uid string, room bool) {
	m.admit.Lock()
	defer m.admit.Unlock()
	delete(m.asks, uid)
	if room {
		m.decideResizes()
	}
}

// retryResizes decides anew on all that wait.
func (m *Manager) retryResizes() {
	m.admit.Lock()
	defer m.admit.Unlock()
	m.decideResizes()
}

// decideFromNow: all pods of this node have their workers.
func (m *Manager) decideFromNow() {
	m.admit.Lock()
	defer m.admit.Unlock()
	if !m.whole {
		m.whole = true
		m.decideResizes()
	}
}

// decideResizes goes through all asks in the kubelet's order: those that need no more than they have, then by the pods'
// priority and class, then those that have waited longest. m.admit is held.
func (m *Manager) decideResizes() {
	if len(m.asks) == 0 || !m.whole {
		return
	}
	asks := make([]*ask, 0, len(m.asks))
	for _, a := range m.asks {
		asks = append(asks, a)
	}
	slices.SortFunc(asks, compareAsks)
	node := m.node()
	for _, a := range asks {
		no := admit.Check(a.pod, m.admitted(a.w.uid), node)
		if no == nil {
			no = m.cfg.Refuse(a.pod)
		}
		if no == nil {
			delete(m.asks, a.w.uid)
		}
		a.w.answerResize(a.pod, no)
	}
}

func compareAsks(a, b *ask) int {
	rank := func(yes bool) int {
		if yes {
			return 0
		}
		return 1
	}
	number := func(p *int32) int32 {
		if p == nil {
			return 0
		}
		return *p
	}
	return cmp.Or(
		cmp.Compare(rank(!a.grows()), rank(!b.grows())),
		cmp.Compare(number(b.pod.Spec.Priority), number(a.pod.Spec.Priority)),
		cmp.Compare(rank(status.QOS(a.pod) == corev1.PodQOSGuaranteed), rank(status.QOS(b.pod) == corev1.PodQOSGuaranteed)),
		a.since.Compare(b.since),
		cmp.Compare(a.w.uid, b.w.uid),
	)
}

// grows: it asks for more than the pod has been granted.
func (a *ask) grows() bool {
	a.w.mu.Lock()
	has := a.w.placed
	a.w.mu.Unlock()
	if has == nil {
		return true
	}
	wants, had := helper.PodRequests(a.pod, helper.PodResourcesOptions{}), helper.PodRequests(has, helper.PodResourcesOptions{})
	return wants.Cpu().Cmp(*had.Cpu()) > 0 || wants.Memory().Cmp(*had.Memory()) > 0
}

// answerResize leaves the decision for the worker. What is granted takes its place at once, so that the next decision
// counts it.
func (w *worker) answerResize(pod *corev1.Pod, no *admit.Refusal) {
	w.mu.Lock()
	old := w.answered
	w.answered = &answer{pod.Generation, no}
	if no == nil {
		w.placed = pod
	}
	news := old == nil || old.generation != pod.Generation || no == nil || old.no == nil || *old.no != *no
	w.mu.Unlock()
	if news {
		w.poke()
	}
}
