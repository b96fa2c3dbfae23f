package policy

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/whalepod/whalepod/proto/netpolicy"
)

func deny(name string, selector map[string]string) *networkingv1.NetworkPolicy {
	p := &networkingv1.NetworkPolicy{ObjectMeta: metav1.ObjectMeta{Namespace: "x", Name: name}}
	p.Spec.PodSelector.MatchLabels = selector
	p.Spec.PolicyTypes = []networkingv1.PolicyType{networkingv1.PolicyTypeIngress}
	return p
}

func allowFrom(name string, selector, from map[string]string) *networkingv1.NetworkPolicy {
	p := deny(name, selector)
	p.Spec.Ingress = []networkingv1.NetworkPolicyIngressRule{{From: []networkingv1.NetworkPolicyPeer{{PodSelector: &metav1.LabelSelector{MatchLabels: from}}}}}
	return p
}

var web, client = map[string]string{"app": "web"}, map[string]string{"app": "client"}

// running is an enforcer at work in a bubble.
func running(t *testing.T, e *Enforcer) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- e.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

// settled waits until the enforcer has done what it was told.
func settled() { later(time.Second) }

// later waits a while, and until what began then is done.
func later(d time.Duration) {
	time.Sleep(d + time.Millisecond)
	synctest.Wait()
}

var toOne = packet{src: ip(addrs[3]), dst: ip(addrs[0]), proto: "tcp", port: 80}

func TestWithoutPoliciesNothingIsThere(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := newKernel()
		e := New(Config{Tables: k, OpenSets: func() (Sets, error) { t.Error("sets are asked for"); return nil, errNoSets }})
		running(t, e)
		e.SetPod(onePod(web))
		e.Synced()
		if err := e.Attach(t.Context(), "one", ip(addrs[0])); err != nil {
			t.Fatal(err)
		}
		settled()
		if k.restores > 0 || k.messages > 0 {
			t.Error(k.restores, k.messages, dump(k))
		}
	})
}

// A pod's rules are in force when Attach returns, and a pod that joins a group costs no rules.
func TestAttach(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := newKernel()
		e := newEnforcer(k)
		running(t, e)
		e.SetPolicy(allowFrom("allow", web, client))
		e.SetPod(onePod(web))
		e.Synced()
		if err := e.Attach(t.Context(), "one", ip(addrs[0])); err != nil {
			t.Fatal(err)
		}
		if k.passes("FORWARD", toOne) {
			t.Error("the pod is open when it starts", dump(k))
		}
		restores, messages := k.restores, k.messages
		second := onePod(web)
		second.Name, second.UID, second.Status.PodIP = "two", "two", addrs[1]
		e.SetPod(second)
		if err := e.Attach(t.Context(), "two", ip(addrs[1])); err != nil {
			t.Fatal(err)
		}
		if k.restores != restores {
			t.Error("another pod of the group changed rules:", k.text)
		}
		if got := k.messages - messages; got != 2 {
			t.Error("another pod of the group cost", got, "changes of sets") // its group, who is isolated
		}
		e.SetPart(netpolicy.Set{Namespace: "x", Pods: &metav1.LabelSelector{MatchLabels: client}}.ID(), "10.244.2", []Member{{Addr: toOne.src}})
		settled()
		if !k.passes("FORWARD", toOne) || k.restores != restores || k.messages != messages+3 {
			t.Error("a client came:", k.restores-restores, k.messages-messages, dump(k))
		}
		e.Detach("two")
		e.SetPart(netpolicy.Set{Namespace: "x", Pods: &metav1.LabelSelector{MatchLabels: client}}.ID(), "10.244.2", nil)
		settled()
		if k.passes("FORWARD", toOne) || k.restores != restores {
			t.Error("a client went:", k.restores-restores, dump(k))
		}
		// Its address is another's, whom nothing isolates.
		free := onePod(nil)
		free.Name, free.UID = "free", "free"
		e.SetPod(free)
		if err := e.Attach(t.Context(), "free", ip(addrs[1])); err != nil {
			t.Fatal(err)
		}
		if to := toOne; !k.passes("FORWARD", packet{src: to.src, dst: ip(addrs[1]), proto: "tcp", port: 80}) {
			t.Error("who got a former pod's address got its isolation")
		}
		e.DeletePolicy("x", "allow")
		settled()
		if len(k.chains) != 3 || len(k.sets) != 0 {
			t.Error("without policies something is left:", dump(k))
		}
	})
}

// An address that changes hands at once: the former pod's isolation must be gone when the next pod starts.
func TestAttachWaitsUntilTheFormerPodIsGone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := newKernel()
		e := newEnforcer(k)
		running(t, e)
		e.SetPolicy(deny("deny", web))
		e.SetPod(onePod(web))
		e.Synced()
		if err := e.Attach(t.Context(), "one", ip(addrs[0])); err != nil {
			t.Fatal(err)
		}
		free := onePod(nil)
		free.Name, free.UID = "free", "free"
		e.SetPod(free)
		e.Detach("one")
		if err := e.Attach(t.Context(), "free", ip(addrs[0])); err != nil || !k.passes("FORWARD", toOne) {
			t.Error(err, dump(k))
		}
	})
}

// A pod whose object is gone, by force perhaps, does not get free while it is on the network.
func TestDeletedPodStaysIsolated(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := newKernel()
		e := newEnforcer(k)
		running(t, e)
		e.SetPolicy(deny("deny", web))
		e.SetPod(onePod(web))
		e.Synced()
		if err := e.Attach(t.Context(), "one", ip(addrs[0])); err != nil {
			t.Fatal(err)
		}
		e.DeletePod("one")
		e.DeletePolicy("x", "deny") // it selects nobody here any more
		settled()
		if k.passes("FORWARD", toOne) {
			t.Error("open:", dump(k))
		}
		e.Detach("one")
		settled()
		e.Repair()
		settled()
		if !k.passes("FORWARD", toOne) {
			t.Error("the address of nobody is isolated:", dump(k))
		}
	})
}

// What was isolated and is on its way out does not get free by an agent that starts and has never heard of it.
func TestDeletedPodStaysIsolatedWhenTheAgentRestarts(t *testing.T) {
	k := newKernel()
	first := newEnforcer(k)
	first.SetPolicy(deny("deny", web))
	first.SetPod(onePod(web))
	first.Adopt("one", ip(addrs[0]))
	first.Synced()
	if err := first.sync(t.Context()); err != nil {
		t.Fatal(err)
	}
	e := newEnforcer(k)
	e.Adopt("one", ip(addrs[0])) // still on the network
	e.Adopt("two", ip(addrs[1])) // nobody knows it, either, but it was free
	e.Synced()
	sync := func() {
		t.Helper()
		if err := e.sync(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	sync()
	toTwo := toOne
	toTwo.dst = ip(addrs[1])
	if k.passes("FORWARD", toOne) || !k.passes("FORWARD", toTwo) {
		t.Error("who was isolated is free, or the other way round:", dump(k))
	}
	e.Repair()
	sync()
	if k.passes("FORWARD", toOne) {
		t.Error("after a repair it is free:", dump(k))
	}
	e.Detach("one")
	sync()
	if !k.passes("FORWARD", toOne) {
		t.Error("the address of nobody is isolated:", dump(k))
	}
}

// interrupted does something while the tables are read for the first time.
type interrupted struct {
	*fakeKernel
	meanwhile func()
}

func (k *interrupted) Read(ctx context.Context) (map[string]map[string]string, error) {
	if do := k.meanwhile; do != nil {
		k.meanwhile = nil
		do()
	}
	return k.fakeKernel.Read(ctx)
}

// The first policy comes while an agent that starts reads what there is.
func TestFirstPolicyComesWhileTablesAreRead(t *testing.T) {
	k := &interrupted{fakeKernel: newKernel()}
	e := New(Config{Tables: k, OpenSets: func() (Sets, error) { return k, nil }})
	k.meanwhile = func() {
		e.SetPolicy(deny("deny", web))
		e.SetPod(onePod(web))
		e.Adopt("one", ip(addrs[0]))
	}
	e.Synced()
	for range 2 { // what comes too late for the first turn is in the second
		if err := e.sync(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if k.passes("FORWARD", toOne) {
		t.Error("the pod is free:", dump(k.fakeKernel))
	}
}

// An agent that starts leaves what is in force until it knows everything.
func TestRestart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := newKernel()
		first := newEnforcer(k)
		first.SetPolicy(deny("deny", web))
		first.SetPod(onePod(web))
		first.Adopt("one", ip(addrs[0]))
		first.Synced()
		if err := first.sync(t.Context()); err != nil {
			t.Fatal(err)
		}
		restores, messages := k.restores, k.messages
		k.between = func() {
			if k.through("FORWARD", toOne) {
				t.Error("open for a moment")
			}
		}
		e := newEnforcer(k)
		running(t, e)
		e.Repair()
		settled()
		if k.restores != restores || k.messages != messages {
			t.Fatal("before it knew all it changed something")
		}
		e.Adopt("one", ip(addrs[0]))
		e.SetPolicy(deny("deny", web))
		e.SetPod(onePod(web))
		e.Synced()
		settled()
		if k.restores != restores || k.messages != messages {
			t.Error("what was in force was not left as it is")
		}
		k.mu.Lock()
		k.chains["FORWARD"], k.between = "", nil // somebody flushed
		k.mu.Unlock()
		later(2 * watchEvery)
		if k.passes("FORWARD", toOne) {
			t.Error("what was flushed was not put back:", dump(k))
		}
		if err := k.Delete(setIngress, Addresses, []Entry{addrEntry(ip(addrs[0]))}); err != nil {
			t.Fatal(err)
		}
		later(2 * watchEvery)
		if k.passes("FORWARD", toOne) {
			t.Error("a set that was flushed was not filled again:", dump(k))
		}
	})
}

// A kernel without sets: nobody notices without policies; with them the pods that they select get nothing, and it is said.
func TestKernelWithoutSets(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := newKernel()
		var there atomic.Bool
		said := []string{}
		e := New(Config{
			Tables: k, Trouble: func(why string) { said = append(said, why) },
			OpenSets: func() (Sets, error) {
				if there.Load() {
					return k, nil
				}
				return nil, errNoSets
			},
		})
		running(t, e)
		e.SetPolicy(allowFrom("allow", web, client))
		e.SetPart(netpolicy.Set{Namespace: "x", Pods: &metav1.LabelSelector{MatchLabels: client}}.ID(), "p", []Member{{Addr: toOne.src}})
		e.SetPod(onePod(web))
		e.Synced()
		err := e.Attach(t.Context(), "one", ip(addrs[0]))
		if err == nil || !strings.Contains(err.Error(), "network policies select this pod, and this node cannot enforce them: this kernel has no sets") {
			t.Error(err)
		}
		if k.passes("FORWARD", toOne) || !k.passes("FORWARD", packet{src: toOne.src, dst: ip(addrs[1]), proto: "tcp", port: 80}) || len(said) != 1 {
			t.Error(said, dump(k))
		}
		// A pod that runs already is selected now.
		second := onePod(nil)
		second.Name, second.UID, second.Status.PodIP = "two", "two", addrs[1]
		e.SetPod(second)
		if err := e.Attach(t.Context(), "two", ip(addrs[1])); err != nil {
			t.Error(err)
		}
		e.SetPolicy(deny("all", nil))
		settled()
		if k.passes("FORWARD", packet{src: toOne.src, dst: ip(addrs[1]), proto: "tcp", port: 80}) {
			t.Error(dump(k))
		}
		e.DeletePolicy("x", "all")
		there.Store(true) // the module was installed
		later(2 * watchEvery)
		if err := e.Attach(t.Context(), "one", ip(addrs[0])); err != nil {
			t.Error(err)
		}
		if !k.passes("FORWARD", toOne) || k.passes("FORWARD", packet{src: ip(addrs[4]), dst: toOne.dst, proto: "tcp", port: 80}) {
			t.Error(dump(k))
		}
		if len(said) != 2 || said[0] != errNoSets.Error() || said[1] != "" {
			t.Error(said)
		}
	})
}

// failing is a kernel that takes no rules with sets.
type failing struct{ *fakeKernel }

func (f failing) Restore(ctx context.Context, text string) error {
	if strings.Contains(text, "--match-set") {
		return errors.New("iptables-restore: Couldn't load match `set'")
	}
	return f.fakeKernel.Restore(ctx, text)
}

func TestIptablesWithoutSets(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := newKernel()
		e := New(Config{Tables: failing{k}, OpenSets: func() (Sets, error) { return k, nil }})
		running(t, e)
		e.SetPolicy(deny("deny", web))
		e.SetPod(onePod(web))
		e.Synced()
		if err := e.Attach(t.Context(), "one", ip(addrs[0])); err == nil || !strings.Contains(err.Error(), "Couldn't load match") {
			t.Error(err)
		}
		if k.passes("FORWARD", toOne) {
			t.Error("open:", dump(k))
		}
	})
}

// unreadable is a kernel whose tables cannot be read for a while.
type unreadable struct {
	*fakeKernel
	times int
}

func (u *unreadable) Read(ctx context.Context) (map[string]map[string]string, error) {
	if u.times--; u.times >= 0 {
		return nil, errors.New("Resource temporarily unavailable")
	}
	return u.fakeKernel.Read(ctx)
}

// When a machine starts, others write their rules, too: that is no reason to take the kernel for one without sets.
func TestTablesThatCannotBeReadForAWhile(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := newKernel()
		e := New(Config{
			Tables: &unreadable{k, 5}, OpenSets: func() (Sets, error) { return k, nil }, Trouble: func(why string) { t.Error("said:", why) },
		})
		running(t, e)
		e.SetPolicy(allowFrom("allow", web, client))
		e.SetPart(netpolicy.Set{Namespace: "x", Pods: &metav1.LabelSelector{MatchLabels: client}}.ID(), "10.244.2", []Member{{Addr: toOne.src}})
		e.SetPod(onePod(web))
		e.Synced()
		if err := e.Attach(t.Context(), "one", ip(addrs[0])); err != nil {
			t.Error(err)
		}
		if !k.passes("FORWARD", toOne) {
			t.Error(dump(k))
		}
	})
}

// A failure is tried again, and the pod that waits hears of it.
func TestFailureIsTriedAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := newKernel()
		e := newEnforcer(k)
		running(t, e)
		e.SetPolicy(deny("deny", web))
		e.Synced()
		settled()
		e.SetPod(onePod(web))
		k.mu.Lock()
		k.fail = errors.New("the table is locked")
		k.mu.Unlock()
		if err := e.Attach(t.Context(), "one", ip(addrs[0])); err == nil || !strings.Contains(err.Error(), "its network policies are not in force") || !strings.Contains(err.Error(), "the table is locked") {
			t.Error(err)
		}
		k.mu.Lock()
		k.fail = nil
		k.mu.Unlock()
		later(2 * backoffMax)
		if err := e.Attach(t.Context(), "one", ip(addrs[0])); err != nil || k.passes("FORWARD", toOne) {
			t.Error(err, dump(k))
		}
	})
}

// BenchmarkPodComes to a node with 250 pods, each with a policy of its own (all 1,000 of the cluster that concern the node): into a
// group that is there, and into one of its own. Without what the kernel takes; see proxy/iptables/e2e_policy_test.go for that.
func BenchmarkPodComes(b *testing.B) {
	for _, own := range []bool{false, true} {
		b.Run(fmt.Sprintf("own-group=%v", own), func(b *testing.B) {
			k := newKernel()
			e := newEnforcer(k)
			for i := range 251 {
				app := map[string]string{"app": fmt.Sprint(i)}
				e.SetPolicy(allowFrom(fmt.Sprint("p", i), app, app))
				if i == 250 {
					break
				}
				o := onePod(app)
				o.Name, o.UID = fmt.Sprint("p", i), types.UID(fmt.Sprint("u", i))
				e.SetPod(o)
				e.Adopt(string(o.UID), netip.AddrFrom4([4]byte{10, 244, 1, byte(i + 1)}))
			}
			e.Synced()
			if err := e.sync(b.Context()); err != nil {
				b.Fatal(err)
			}
			app := "0"
			if own {
				app = "250"
			}
			for b.Loop() {
				e.SetPod(onePod(map[string]string{"app": app}))
				e.Adopt("one", ip("10.244.1.254"))
				if err := e.sync(b.Context()); err != nil {
					b.Fatal(err)
				}
				b.StopTimer()
				e.DeletePod("one")
				e.Detach("one")
				e.SetPolicy(allowFrom("p0", map[string]string{"app": "0"}, client)) // so that groups without pods go
				if err := e.sync(b.Context()); err != nil {
					b.Fatal(err)
				}
				b.StartTimer()
			}
		})
	}
}

// One policy takes another's place: between the two nobody is let in.
func TestTogether(t *testing.T) {
	k := newKernel()
	e := newEnforcer(k)
	e.SetPolicy(deny("first", web))
	e.SetPod(onePod(web))
	e.Adopt("one", toOne.dst)
	e.Synced()
	if err := e.sync(t.Context()); err != nil {
		t.Fatal(err)
	}
	k.between = func() {
		if k.through("FORWARD", toOne) {
			t.Error("open for a moment:", dump(k))
		}
	}
	for i := range 50 {
		began, done := make(chan struct{}), make(chan error, 1)
		e.Together(func() {
			e.DeletePolicy("x", []string{"first", "second"}[i%2])
			go func() {
				close(began)
				done <- e.sync(t.Context())
			}()
			<-began
			runtime.Gosched()
			e.SetPolicy(deny([]string{"second", "first"}[i%2], web))
		})
		if err := <-done; err != nil {
			t.Fatal(err)
		}
	}
}
