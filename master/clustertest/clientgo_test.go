package clustertest

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	corev1ac "k8s.io/client-go/applyconfigurations/core/v1"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/leaderelection"
	"k8s.io/client-go/tools/leaderelection/resourcelock"
)

// TestInformers: what an operator's caches hold is what the cluster holds, through many changes and over a restart of the
// master; every object was added once, and deleted once.
func TestInformers(t *testing.T) {
	run(t, 2, func(c *cluster) {
		factory := informers.NewSharedInformerFactory(c.kube, 0)
		pods, deployments := factory.Core().V1().Pods(), factory.Apps().V1().Deployments()
		for _, informer := range []cache.SharedIndexInformer{pods.Informer(), deployments.Informer()} {
			// The usual handler waits by a clock that all of the process shares, and the bubble's is another.
			if err := informer.SetWatchErrorHandler(func(*cache.Reflector, error) {}); err != nil {
				c.Fatal(err)
			}
		}
		var mu sync.Mutex
		seen := map[string]int{} // by UID: 1 when it is there, 0 when it is gone
		_, err := pods.Informer().AddEventHandler(cache.ResourceEventHandlerFuncs{
			AddFunc: func(o any) {
				mu.Lock()
				defer mu.Unlock()
				seen[string(o.(*corev1.Pod).UID)]++
			},
			DeleteFunc: func(o any) {
				if last, ok := o.(cache.DeletedFinalStateUnknown); ok {
					o = last.Obj
				}
				mu.Lock()
				defer mu.Unlock()
				seen[string(o.(*corev1.Pod).UID)]--
			},
		})
		if err != nil {
			c.Fatal(err)
		}
		ctx, cancel := context.WithCancel(c.ctx)
		defer factory.Shutdown()
		defer cancel()
		factory.StartWithContext(ctx)
		factory.WaitForCacheSync(ctx.Done())

		agrees := func() bool {
			list, err := c.kube.CoreV1().Pods("").List(c.ctx, metav1.ListOptions{})
			if err != nil {
				return false
			}
			cached, err := pods.Lister().List(labels.Everything())
			if err != nil || len(cached) != len(list.Items) {
				return false
			}
			mu.Lock()
			defer mu.Unlock()
			there := 0
			for _, n := range seen {
				there += n
			}
			for _, p := range list.Items {
				have, err := pods.Lister().Pods(p.Namespace).Get(p.Name)
				if err != nil || have.ResourceVersion != p.ResourceVersion || seen[string(p.UID)] != 1 {
					return false
				}
			}
			return there == len(list.Items)
		}
		c.deploy(deployment("web", 10))
		c.eventually(time.Minute, "the cache has all pods, ready", func() bool { return agrees() && len(c.ready("web")) == 2 })
		c.restartMaster(5 * time.Second)
		for i := range 20 {
			c.createPod(pinned(fmt.Sprintf("p%d", i), "n1"))
			if i%2 == 0 {
				c.deletePod(fmt.Sprintf("p%d", i), 0)
			}
		}
		c.eventually(time.Minute, "the cache agrees again", func() bool { return agrees() })
		if d, err := deployments.Lister().Deployments("default").Get("web"); err != nil || d.Status.ReadyReplicas != 10 {
			c.Error("the cached Deployment:", d, err)
		}
		mu.Lock()
		defer mu.Unlock()
		if bad := slices.DeleteFunc(slices.Sorted(maps.Values(seen)), func(n int) bool { return n == 0 || n == 1 }); len(bad) > 0 {
			c.Error("objects that were told of twice:", bad)
		}
	})
}

// TestLeaderElection: of three candidates one leads; one that stops hands over at once, one that falls silent when its lease has
// run out, and never do two lead at a time.
func TestLeaderElection(t *testing.T) {
	run(t, 0, func(c *cluster) {
		var mu sync.Mutex
		leading := map[string]bool{}
		stops, silent := map[string]context.CancelFunc{}, map[string]*atomic.Bool{}
		var all sync.WaitGroup
		for _, name := range []string{"a", "b", "c"} {
			lock := &muteable{Interface: &resourcelock.LeaseLock{
				LeaseMeta: metav1.ObjectMeta{Namespace: "default", Name: "operator"}, Client: c.kube.CoordinationV1(),
				LockConfig: resourcelock.ResourceLockConfig{Identity: name},
			}}
			silent[name] = &lock.mute
			ctx, cancel := context.WithCancel(c.ctx)
			stops[name] = cancel
			elector, err := leaderelection.NewLeaderElector(leaderelection.LeaderElectionConfig{
				Lock: lock, LeaseDuration: 15 * time.Second, RenewDeadline: 10 * time.Second, RetryPeriod: 2 * time.Second, ReleaseOnCancel: true,
				Callbacks: leaderelection.LeaderCallbacks{
					OnStartedLeading: func(context.Context) {
						mu.Lock()
						defer mu.Unlock()
						leading[name] = true
						if len(leading) > 1 {
							c.Error("these lead at a time:", leading)
						}
					},
					OnStoppedLeading: func() {
						mu.Lock()
						defer mu.Unlock()
						delete(leading, name)
					},
				},
			})
			if err != nil {
				c.Fatal(err)
			}
			all.Go(func() { elector.Run(ctx) })
		}
		leader := func() (name string) {
			mu.Lock()
			defer mu.Unlock()
			for name := range leading {
				return name
			}
			return ""
		}
		c.eventually(10*time.Second, "somebody leads", func() bool { return leader() != "" })
		first := leader()
		stops[first]()
		c.eventually(10*time.Second, "another takes over from one that stopped", func() bool { return leader() != "" && leader() != first })
		second := leader()
		silent[second].Store(true)
		c.eventually(40*time.Second, "the third takes over from one that fell silent", func() bool { l := leader(); return l != "" && l != first && l != second })
		lease, err := c.kube.CoordinationV1().Leases("default").Get(c.ctx, "operator", metav1.GetOptions{})
		if err != nil || *lease.Spec.HolderIdentity != leader() || *lease.Spec.LeaseTransitions < 2 {
			c.Error("the lease says", lease, err)
		}
		for _, stop := range stops {
			stop()
		}
		all.Wait()
	})
}

// muteable is a lock whose holder can be cut off.
type muteable struct {
	resourcelock.Interface
	mute atomic.Bool
}

func (m *muteable) Update(ctx context.Context, r resourcelock.LeaderElectionRecord) error {
	if m.mute.Load() {
		return context.DeadlineExceeded
	}
	return m.Interface.Update(ctx, r)
}

// TestServerSideApplyByTwo: two managers share an object through client-go's typed apply: each owns what it said, a clash is
// refused in words that name the other, force takes it, and what a manager no longer says goes.
func TestServerSideApplyByTwo(t *testing.T) {
	run(t, 0, func(c *cluster) {
		maps := c.kube.CoreV1().ConfigMaps("default")
		apply := func(manager string, force bool, data map[string]string) (*corev1.ConfigMap, error) {
			return maps.Apply(c.ctx, corev1ac.ConfigMap("shared", "default").WithData(data), metav1.ApplyOptions{FieldManager: manager, Force: force})
		}
		if _, err := apply("one", false, map[string]string{"a": "1", "both": "1"}); err != nil {
			c.Fatal(err)
		}
		if _, err := apply("two", false, map[string]string{"b": "2", "both": "1"}); err != nil {
			c.Fatal("agreeing with somebody is no clash:", err)
		}
		_, err := apply("two", false, map[string]string{"b": "2", "both": "2"})
		if !apierrors.IsConflict(err) || !strings.Contains(err.Error(), `conflict with "one"`) || !strings.Contains(err.Error(), ".data.both") {
			c.Error("a clash:", err)
		}
		if _, err := apply("two", true, map[string]string{"b": "2", "both": "2"}); err != nil {
			c.Error(err)
		}
		got, err := apply("one", false, map[string]string{"a": "1"}) // it has lost "both" and says nothing of it
		if err != nil || got.Data["both"] != "2" {
			c.Error(got, err)
		}
		got, err = apply("two", false, map[string]string{"both": "2"})
		if want := map[string]string{"a": "1", "both": "2"}; err != nil || !equal(got.Data, want) {
			c.Error("what two no longer says is still there:", got, err)
		}
		mine, err := corev1ac.ExtractConfigMap(got, "two")
		if err != nil || !equal(mine.Data, map[string]string{"both": "2"}) {
			c.Error("two owns", mine, err)
		}
	})
}

func equal(a, b map[string]string) bool { return maps.Equal(a, b) }
