package hollow

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"path/filepath"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/whalepod/whalepod/node/desired"
	"github.com/whalepod/whalepod/node/session"
	agentv1 "github.com/whalepod/whalepod/proto/agent/v1"
)

// jobTime is how long the pods of Jobs run.
const jobTime = time.Second

// node is one hollow node. It implements session.Desired.
type node struct {
	cfg    *Config
	name   string
	index  int
	outbox *session.Outbox

	mu sync.Mutex
	// pods by namespace/name, of which the master has been told that they run.
	pods map[string]types.UID
	// told are the pods of a snapshot that is coming; nil while none is.
	told map[string]bool
	cidr netip.Prefix
	next netip.Addr
	ends map[types.UID]*time.Timer
}

func newNode(cfg *Config, index int) *node {
	return &node{
		cfg: cfg, index: index, name: fmt.Sprintf("%s-%d", cfg.Prefix, index), outbox: session.NewOutbox(),
		pods: map[string]types.UID{}, ends: map[types.UID]*time.Timer{},
	}
}

// run joins and keeps a session until ctx ends.
func (n *node) run(ctx context.Context, joins chan struct{}) error {
	id, err := n.join(ctx, joins)
	if err != nil {
		return err
	}
	defer n.stopTimers()
	client := session.New(session.Config{
		Identity: id, Dir: n.dir(), Version: n.cfg.Version, Desired: n, Outbox: n.outbox, Dial: n.cfg.Dial,
		Node:     func(context.Context) (*corev1.Node, error) { return n.describe(), nil },
		Serve:    func(_ context.Context, conn net.Conn) { conn.Close() }, // there is nothing to stream from
		Welcomed: n.welcomed, Logger: n.cfg.Logger.With("node", n.name),
	})
	return client.Run(ctx)
}

func (n *node) dir() string { return filepath.Join(n.cfg.Dir, n.name) }

// join, unless the node has joined before. Few at a time: each costs both sides a signature.
func (n *node) join(ctx context.Context, joins chan struct{}) (*session.Identity, error) {
	select {
	case joins <- struct{}{}:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	defer func() { <-joins }()
	if id, err := session.LoadIdentity(n.dir()); err == nil && id.Trusts(n.cfg.Join.CAHash) && !id.Expired(time.Now()) {
		return id, nil
	}
	o := n.cfg.Join
	o.NodeName, o.Dial = n.name, n.cfg.Dial
	return session.Join(ctx, n.dir(), o)
}

func (n *node) stopTimers() {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, t := range n.ends {
		t.Stop()
	}
}

// describe the node, as large as the flags say. Its address is made up, and of a range for documentation (RFC 5737 has
// none as large as this one of RFC 2544).
func (n *node) describe() *corev1.Node {
	capacity := corev1.ResourceList{
		corev1.ResourceCPU: n.cfg.CPU.DeepCopy(), corev1.ResourceMemory: n.cfg.Memory.DeepCopy(),
		corev1.ResourcePods: *resource.NewQuantity(int64(n.cfg.Pods), resource.DecimalSI),
	}
	now := metav1.Now()
	return &corev1.Node{
		ObjectMeta: metav1.ObjectMeta{Name: n.name, Labels: map[string]string{
			corev1.LabelHostname: n.name, corev1.LabelOSStable: "linux", corev1.LabelArchStable: "amd64", Label: "",
		}},
		Status: corev1.NodeStatus{
			Capacity: capacity, Allocatable: capacity,
			Addresses: []corev1.NodeAddress{
				{Type: corev1.NodeInternalIP, Address: fmt.Sprintf("198.18.%d.%d", n.index>>8&0xff, n.index&0xff)},
				{Type: corev1.NodeHostName, Address: n.name},
			},
			NodeInfo: corev1.NodeSystemInfo{
				MachineID: n.name, KubeletVersion: n.cfg.Version, OperatingSystem: "linux", Architecture: "amd64",
				ContainerRuntimeVersion: "hollow://" + n.cfg.Version,
			},
			Conditions: []corev1.NodeCondition{{
				Type: corev1.NodeReady, Status: corev1.ConditionTrue, Reason: "KubeletReady", Message: "hollow node: its pods are made up",
				LastHeartbeatTime: now, LastTransitionTime: now,
			}},
		},
	}
}

func (n *node) welcomed(_ *agentv1.ClusterConfig, podCIDR string) error {
	p, err := netip.ParsePrefix(podCIDR)
	if err != nil {
		return err
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.cidr != p {
		n.cidr, n.next = p, p.Addr().Next()
	}
	return nil
}

// address of the next pod; after the last of the range the first comes again.
func (n *node) address() string {
	n.next = n.next.Next()
	if !n.cidr.Contains(n.next) {
		n.next = n.cidr.Addr().Next().Next()
	}
	return n.next.String()
}

// Wants implements session.Selective: thousands of nodes in one process would spend their time reading what they do not use.
func (n *node) Wants(r desired.Resource) bool { return r == desired.Pods }

// Begin implements session.Desired.
func (n *node) Begin() {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.told = map[string]bool{}
}

// Apply implements session.Desired.
func (n *node) Apply(changes []desired.Change) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, c := range changes {
		if c.Resource != desired.Pods {
			continue
		}
		pod, _ := c.Object.(*corev1.Pod)
		if pod == nil {
			n.forget(c.Key)
			continue
		}
		if n.told != nil {
			n.told[c.Key] = true
		}
		n.take(c.Key, pod)
	}
	return nil
}

// Complete implements session.Desired: what the snapshot did not name is gone.
func (n *node) Complete(uint64) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	for key := range n.pods {
		if n.told != nil && !n.told[key] {
			n.forget(key)
		}
	}
	n.told = nil
	return nil
}

// Mark implements session.Desired: nothing is put in force here.
func (n *node) Mark(uint64) {}

func (n *node) take(key string, pod *corev1.Pod) {
	switch {
	case pod.DeletionTimestamp != nil:
		n.forget(key)
		n.outbox.Gone(pod.Namespace, pod.Name, pod.UID)
	case n.pods[key] != pod.UID:
		n.forget(key)
		n.pods[key] = pod.UID
		status := running(pod, n.address(), n.describe().Status.Addresses[0].Address)
		n.outbox.Pod(pod.Namespace, pod.Name, pod.UID, status)
		if owner := metav1.GetControllerOfNoCopy(pod); owner != nil && owner.Kind == "Job" {
			n.ends[pod.UID] = time.AfterFunc(jobTime, func() { n.succeed(pod, status) })
		}
	}
}

func (n *node) forget(key string) {
	uid := n.pods[key]
	delete(n.pods, key)
	if t := n.ends[uid]; t != nil {
		t.Stop()
		delete(n.ends, uid)
	}
}

func (n *node) succeed(pod *corev1.Pod, was *corev1.PodStatus) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.ends[pod.UID] != nil {
		delete(n.ends, pod.UID)
		n.outbox.Pod(pod.Namespace, pod.Name, pod.UID, succeeded(was))
	}
}

// discard is for logs that nobody asked for: a thousand nodes say everything a thousand times.
var discard = slog.New(slog.DiscardHandler)
