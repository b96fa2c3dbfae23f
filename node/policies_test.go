package node

import (
	"context"
	"errors"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/whalepod/whalepod/node/desired"
	"github.com/whalepod/whalepod/node/network"
	agentv1 "github.com/whalepod/whalepod/proto/agent/v1"
	"github.com/whalepod/whalepod/proto/netpolicy"
	"github.com/whalepod/whalepod/proxy/policy"
)

// writtenRules is a kernel that remembers the sets and which chains it was given.
type writtenRules struct {
	mu   sync.Mutex
	text string
	sets map[string]map[policy.Entry]bool
}

func (k *writtenRules) Read(context.Context) (map[string]map[string]string, error) { return nil, nil }
func (k *writtenRules) List() (map[string]policy.KernelSet, error)                 { return nil, nil }

func (k *writtenRules) Restore(_ context.Context, text string) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.text += text
	return nil
}

func (k *writtenRules) Create(name string, _ policy.SetType) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.sets[name] = map[policy.Entry]bool{}
	return nil
}

func (k *writtenRules) Destroy(name string) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	delete(k.sets, name)
	return nil
}

func (k *writtenRules) Add(name string, _ policy.SetType, entries []policy.Entry) error {
	return k.put(name, entries, true)
}

func (k *writtenRules) Delete(name string, _ policy.SetType, entries []policy.Entry) error {
	return k.put(name, entries, false)
}

func (k *writtenRules) put(name string, entries []policy.Entry, in bool) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.sets[name] == nil {
		return errors.New("no such set")
	}
	for _, e := range entries {
		if delete(k.sets[name], e); in {
			k.sets[name][e] = true
		}
	}
	return nil
}

// has tells whether a set has exactly these addresses.
func (k *writtenRules) has(name string, addrs ...string) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, a := range addrs {
		e := policy.Entry{Net: netip.MustParsePrefix(a + "/32")}
		if !k.sets[name][e] {
			return false
		}
	}
	return len(k.sets[name]) == len(addrs)
}

// What the master tells becomes rules: before a pod starts, as it changes, and for pods that ran before the agent did.
func TestPoliciesReachTheKernel(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		state, err := desired.Open(desired.Config{})
		if err != nil {
			t.Fatal(err)
		}
		defer state.Close()
		client := &metav1.LabelSelector{MatchLabels: map[string]string{"role": "client"}}
		np := &networkingv1.NetworkPolicy{ObjectMeta: metav1.ObjectMeta{Namespace: "x", Name: "p"}}
		np.Spec.Ingress = []networkingv1.NetworkPolicyIngressRule{{From: []networkingv1.NetworkPolicyPeer{{PodSelector: client}}}}
		pod := func(name, uid string) *corev1.Pod {
			return &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "x", Name: name, UID: types.UID(uid)}}
		}
		id := netpolicy.Set{Namespace: "x", Pods: client}.ID()
		part := func(addrs ...uint32) desired.Change {
			return desired.Change{Resource: desired.PolicySets, Key: id + "/10.244.2", Object: &desired.PolicySet{PolicySet: agentv1.PolicySet{Addresses: addrs}}}
		}
		apply := func(c ...desired.Change) {
			t.Helper()
			if err := state.Apply(c); err != nil {
				t.Fatal(err)
			}
		}
		k := &writtenRules{sets: map[string]map[policy.Entry]bool{}}
		e := policy.New(policy.Config{Tables: k, OpenSets: func() (policy.Sets, error) { return k, nil }})
		f := newPolicyFeed(state, e, []network.PodLink{{UID: "old", IP: netip.MustParseAddr("10.244.1.9")}})
		ctx, cancel := context.WithCancel(t.Context())
		var running sync.WaitGroup
		defer running.Wait()
		defer cancel()
		running.Go(func() { _ = e.Run(ctx) })

		// The pod and its policies come together; the feed has not run, as if another goroutine were quicker.
		apply(part(0x0af40205), desired.Change{Resource: desired.Policies, Key: "x/p", Object: np}, desired.Change{Resource: desired.Pods, Key: "x/new", Object: pod("new", "u1")},
			desired.Change{Resource: desired.Pods, Key: "x/old", Object: pod("old", "old")})
		if err := state.Complete(1); err != nil {
			t.Fatal(err)
		}
		if err := f.attach(ctx, "u1", netip.MustParseAddr("10.244.1.5")); err != nil {
			t.Fatal(err)
		}
		if !k.has("wp-ingress", "10.244.1.5", "10.244.1.9") || !k.has("wp-p-"+id, "10.244.2.5") || !strings.Contains(k.text, `--comment "x/p" -m set --match-set wp-p-`+id+" src -j RETURN") {
			t.Fatal(k.sets, k.text)
		}
		running.Go(func() { _ = f.run(ctx) })
		later := func() { time.Sleep(time.Second); synctest.Wait() }
		apply(part(0x0af40205, 0x0af40206))
		later()
		if !k.has("wp-p-"+id, "10.244.2.5", "10.244.2.6") {
			t.Error("a client came:", k.sets)
		}
		apply(desired.Change{Resource: desired.PolicySets, Key: id + "/10.244.2"}, desired.Change{Resource: desired.Pods, Key: "x/new", Object: pod("new", "u2")})
		e.Detach("u1")
		later()
		if !k.has("wp-p-"+id) || !k.has("wp-ingress", "10.244.1.9") {
			t.Error("the clients went, the pod is another of its name:", k.sets)
		}
		apply(desired.Change{Resource: desired.Policies, Key: "x/p"})
		later()
		if len(k.sets) != 0 {
			t.Error("without policies sets are left:", k.sets)
		}
	})
}

// freed is a kernel that remembers whether a pod was ever isolated no more.
type freed struct {
	*writtenRules
	times atomic.Int32
}

func (k *freed) Delete(name string, typ policy.SetType, entries []policy.Entry) error {
	if name == "wp-ingress" {
		k.times.Add(1)
	}
	return k.writtenRules.Delete(name, typ, entries)
}

// A pod's labels and policies change together while something else of it is on its way: it is isolated all the time.
func TestPoliciesOfOneChangeComeTogether(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		state, err := desired.Open(desired.Config{})
		if err != nil {
			t.Fatal(err)
		}
		defer state.Close()
		selecting := func(name, version string) desired.Change {
			np := &networkingv1.NetworkPolicy{ObjectMeta: metav1.ObjectMeta{Namespace: "x", Name: name}}
			np.Spec.PodSelector.MatchLabels = map[string]string{"version": version}
			return desired.Change{Resource: desired.Policies, Key: "x/" + name, Object: np}
		}
		pod := func(version string) desired.Change {
			return desired.Change{Resource: desired.Pods, Key: "x/pod", Object: &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "x", Name: "pod", UID: "u", Labels: map[string]string{"version": version}}}}
		}
		apply := func(c ...desired.Change) {
			t.Helper()
			if err := state.Apply(c); err != nil {
				t.Fatal(err)
			}
		}
		apply(selecting("a", "1"), pod("1"))
		if err := state.Complete(1); err != nil {
			t.Fatal(err)
		}
		k := &freed{writtenRules: &writtenRules{sets: map[string]map[policy.Entry]bool{}}}
		e := policy.New(policy.Config{Tables: k, OpenSets: func() (policy.Sets, error) { return k, nil }})
		f := newPolicyFeed(state, e, []network.PodLink{{UID: "u", IP: netip.MustParseAddr("10.244.1.9")}})
		ctx, cancel := context.WithCancel(t.Context())
		var running sync.WaitGroup
		defer running.Wait()
		defer cancel()
		running.Go(func() { _ = e.Run(ctx) })
		later := func() { time.Sleep(time.Second); synctest.Wait() }
		later()
		if !k.has("wp-ingress", "10.244.1.9") {
			t.Fatal(k.sets)
		}
		apply(pod("1")) // a status, perhaps
		meanwhile := []desired.Change{selecting("b", "2"), {Resource: desired.Policies, Key: "x/a"}, pod("2")}
		f.take = func() []desired.Ref {
			refs := f.sub.Take()
			apply(meanwhile...)
			meanwhile = nil
			return refs
		}
		f.catchUp()
		later()
		if k.times.Load() > 0 || !k.has("wp-ingress", "10.244.1.9") {
			t.Error("the pod was free for a while:", k.sets)
		}
	})
}

func TestMembersOf(t *testing.T) {
	got := membersOf(&desired.PolicySet{PolicySet: agentv1.PolicySet{Addresses: []uint32{0x0af40205, 0x0af40206}, Ports: []uint32{6<<16 | 80, 132<<16 | 9}}})
	want := []policy.Member{{Addr: netip.MustParseAddr("10.244.2.5"), Protocol: 6, Port: 80}, {Addr: netip.MustParseAddr("10.244.2.6"), Protocol: 132, Port: 9}}
	if len(got) != 2 || got[0] != want[0] || got[1] != want[1] || membersOf(nil) != nil {
		t.Error(got)
	}
}
