package node

import (
	"context"
	"encoding/binary"
	"net/netip"
	"strings"
	"sync"

	"github.com/vishvananda/netns"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/whalepod/whalepod/node/desired"
	"github.com/whalepod/whalepod/node/network"
	"github.com/whalepod/whalepod/node/session"
	"github.com/whalepod/whalepod/proxy/ipset"
	"github.com/whalepod/whalepod/proxy/iptables"
	"github.com/whalepod/whalepod/proxy/policy"
)

// nodePolicies is the condition of a node that cannot enforce network policies.
const nodePolicies corev1.NodeConditionType = "NetworkPolicyUnavailable"

// newPolicies makes what enforces network policies, and gives it what is known: also the addresses of pods that run already, so that
// a restarted agent leaves them what they have.
func (a *Agent) newPolicies(ctx context.Context, p *dataPlane) error {
	tables, err := iptables.New(ctx, iptables.Config{Prefix: policy.Prefix, Names: []string{policy.Table}})
	if err != nil {
		return err
	}
	p.policy = policy.New(policy.Config{
		Tables: tables, OpenSets: openSets, Trouble: a.policiesInTrouble, Logger: a.cfg.Logger,
	})
	links, err := p.network.List(ctx)
	if err != nil {
		return err
	}
	p.policies = newPolicyFeed(a.desired, p.policy, links)
	return nil
}

func openSets() (policy.Sets, error) {
	k, err := ipset.Open(netns.None())
	if err != nil {
		return nil, err
	}
	return k, nil
}

// policiesInTrouble tells people why pods that policies select get no traffic on this node, or that they do again ("").
func (a *Agent) policiesInTrouble(why string) {
	a.mu.Lock()
	a.policyTrouble = why
	a.mu.Unlock()
	if why != "" {
		a.outbox.Event(session.Event{
			Kind: "Node", Name: a.cfg.Identity.Node, UID: a.cfg.Identity.Node, Type: corev1.EventTypeWarning, Reason: string(nodePolicies),
			Message: "Network policies cannot be enforced, so the pods that they select get no traffic on this node: " + why,
		})
	}
	poke(a.guard.changed)
}

// policyCondition is told where there are policies; elsewhere it would be one more line to read.
func (a *Agent) policyCondition(at metav1.Time) []corev1.NodeCondition {
	a.mu.Lock()
	why := a.policyTrouble
	a.mu.Unlock()
	c := corev1.NodeCondition{
		Type: nodePolicies, Status: corev1.ConditionFalse, Reason: "NetworkPoliciesEnforced", Message: "network policies are enforced",
		LastHeartbeatTime: at, LastTransitionTime: at,
	}
	switch {
	case why != "":
		c.Status, c.Reason, c.Message = corev1.ConditionTrue, "NetworkPoliciesNotEnforced", "the pods that network policies select get no traffic: "+why
	case len(a.desired.Policies()) == 0:
		return nil
	}
	return []corev1.NodeCondition{c}
}

// policyFeed hands the enforcer the policies, the sets and the pods of this node, all at first and then what changes.
type policyFeed struct {
	desired *desired.State
	sub     *desired.Subscription
	take    func() []desired.Ref // from sub
	to      *policy.Enforcer

	mu   sync.Mutex // one at a time, so that what is older never comes later
	uids map[string]string
}

func newPolicyFeed(state *desired.State, to *policy.Enforcer, links []network.PodLink) *policyFeed {
	f := &policyFeed{
		desired: state, to: to, uids: map[string]string{},
		sub: state.Subscribe(desired.Policies, desired.PolicySets, desired.Pods),
	}
	f.take = f.sub.Take
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, l := range links {
		to.Adopt(l.UID, l.IP)
	}
	state.PolicySets(func(set, part string, s *desired.PolicySet) { to.SetPart(set, part, membersOf(s)) })
	for _, p := range state.Policies() {
		to.SetPolicy(p)
	}
	for _, p := range state.Pods() {
		f.pod(desired.Key(p.Namespace, p.Name))
	}
	f.giveAll()
	return f
}

// run until ctx ends.
func (f *policyFeed) run(ctx context.Context) error {
	defer f.sub.Close()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-f.sub.C():
			f.catchUp()
		}
	}
}

// catchUp gives what has changed. Who has seen a pod in the desired state and then calls this has given its policies, too: they came
// with it.
func (f *policyFeed) catchUp() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.to.Together(f.giveAll)
}

// giveAll gives until nothing has changed meanwhile: objects are read one by one as they are now, and one that is newer than the others,
// a pod whose labels changed with its policies, would be free between one turn and the next.
func (f *policyFeed) giveAll() {
	for refs := f.take(); len(refs) > 0; refs = f.take() {
		for _, ref := range refs {
			f.give(ref)
		}
	}
	if f.desired.Usable() {
		f.to.Synced()
	}
}

// give what became of one object.
func (f *policyFeed) give(ref desired.Ref) {
	first, second, _ := strings.Cut(ref.Key, "/")
	switch ref.Resource {
	case desired.Policies:
		if p, ok := f.desired.Policy(first, second); ok {
			f.to.SetPolicy(p)
		} else {
			f.to.DeletePolicy(first, second)
		}
	case desired.PolicySets:
		s, _ := f.desired.PolicySet(first, second)
		f.to.SetPart(first, second, membersOf(s))
	case desired.Pods:
		f.pod(ref.Key)
	}
}

// pod gives one pod, or takes back who went by the name.
func (f *policyFeed) pod(key string) {
	namespace, name, _ := strings.Cut(key, "/")
	p, ok := f.desired.Pod(namespace, name)
	if had := f.uids[key]; had != "" && (!ok || had != string(p.UID)) {
		f.to.DeletePod(had)
		delete(f.uids, key)
	}
	if ok {
		f.uids[key] = string(p.UID)
		f.to.SetPod(p)
	}
}

// attach a pod to its policies; see policy.Enforcer.Attach.
func (f *policyFeed) attach(ctx context.Context, uid string, addr netip.Addr) error {
	f.catchUp()
	return f.to.Attach(ctx, uid, addr)
}

func membersOf(s *desired.PolicySet) []policy.Member {
	if s == nil {
		return nil
	}
	out := make([]policy.Member, len(s.Addresses))
	for i, n := range s.Addresses {
		var b [4]byte
		binary.BigEndian.PutUint32(b[:], n)
		out[i].Addr = netip.AddrFrom4(b)
		if i < len(s.Ports) {
			out[i].Protocol, out[i].Port = uint8(s.Ports[i]>>16), uint16(s.Ports[i])
		}
	}
	return out
}
