//go:build e2e

package e2e

import (
	"context"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/whalepod/whalepod/lab"
)

const (
	agentKills = 100
	// The agent lives for up to this long between two kills: long enough now and then for a pod to be made.
	maxAgentLife = 700 * time.Millisecond
	// When it had no session with the master for this long, it lives until it has one: a node that is not heard of for longer
	// than pods tolerate loses them, as it should.
	maxSilence = 4 * time.Second
)

const churnManifest = `
apiVersion: v1
kind: Pod
metadata: {name: churn-%d, labels: {app: churn}}
spec:
  nodeName: %s
  terminationGracePeriodSeconds: 1
  containers:
  - {name: one, image: busybox, command: [sleep, "1000"]}
  - {name: two, image: busybox, command: [sleep, "1000"]}
`

// TestAgentKilledAHundredTimes kills a node's agent at any moment while pods come and go there. The pods that stay are
// not restarted, and in the end there is one container for each that should be, and nothing else.
func TestAgentKilledAHundredTimes(t *testing.T) {
	node := cluster.Node(2)
	afterwards(t, node)
	w := startWeb(t, 30099)
	stays := w.on(t, node)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	churned := make(chan int, 1)
	go func() { churned <- churn(ctx, t, w.k, node) }()
	heard, sessions := time.Now(), sessionsOf(t, node)
	for range agentKills {
		if n := sessionsOf(t, node); n > sessions {
			heard, sessions = time.Now(), n
		} else if time.Since(heard) > maxSilence {
			awaitNode(t, node)
			heard, sessions = time.Now(), sessionsOf(t, node)
		}
		life := time.NewTimer(rand.N(maxAgentLife))
		select {
		case <-life.C:
		case <-t.Context().Done():
			t.Fatal(t.Context().Err())
		}
		must(t, node.KillAgent(t.Context()))
		must(t, node.StartAgent(t.Context()))
	}
	cancel()
	t.Logf("%d pods came and went meanwhile", <-churned)
	awaitNode(t, node)
	w.k.run(t, "delete", "pods", "-l", "app=churn", "--wait=false")
	eventually(t, settle, "the pods that came are gone", func() error {
		if out := w.k.run(t, "get", "pods", "-l", "app=churn", "-o", "name"); strings.TrimSpace(out) != "" {
			return fmt.Errorf("still there: %s", out)
		}
		return nil
	})
	w.notDoubled(t)
	nothingOrphaned(t, w, node)
	if now := w.on(t, node); now.UID != stays.UID || now.Status.PodIP != stays.Status.PodIP || now.Status.ContainerStatuses[0].RestartCount != 0 {
		t.Errorf("the pod that stayed is now %s with %d restarts at %s, was %s at %s",
			now.UID, now.Status.ContainerStatuses[0].RestartCount, now.Status.PodIP, stays.UID, stays.Status.PodIP)
	}
	pageShows(t, beside(), w.url(node), "It works!")
}

// sessionsOf tells how many sessions with the master a node's agents have begun.
func sessionsOf(t testing.TB, n *lab.Node) int {
	t.Helper()
	log, err := n.AgentLog()
	must(t, err)
	return strings.Count(log, "session began")
}

// churn makes pods on the node and deletes them again until ctx ends, and returns how many it made.
func churn(ctx context.Context, t testing.TB, k cli, node *lab.Node) int {
	for i := 0; ; i++ {
		k.input(t, fmt.Sprintf(churnManifest, i, node.Name), "create", "-f", "-")
		if i >= 3 {
			k.try(t, "delete", "pod", fmt.Sprintf("churn-%d", i-3), "--wait=false")
		}
		if ctx.Err() != nil {
			return i + 1
		}
		select {
		case <-ctx.Done():
		case <-time.After(500 * time.Millisecond):
		}
	}
}

// nothingOrphaned sees that the node holds no containers, running or not, and no links of pods that are gone.
func nothingOrphaned(t *testing.T, w web, node *lab.Node) {
	t.Helper()
	eventually(t, settle, "nothing of the pods that are gone", func() error {
		var all []struct{ Names []string }
		if err := node.Engine(t.Context(), "GET", "/containers/json?all=1", nil, &all); err != nil {
			return err
		}
		sandboxes := 0
		for _, c := range all {
			f := strings.Split(strings.Join(c.Names, ""), "_")
			if len(f) != 6 {
				return fmt.Errorf("a container without a pod's name: %v", c.Names)
			}
			if strings.HasPrefix(f[2], "churn-") {
				return fmt.Errorf("left: %v", c.Names)
			}
			if f[1] == "POD" {
				sandboxes++
			}
		}
		links, err := output(node.Command(t.Context(), "ip", "-o", "link", "show", "type", "veth"))
		if err != nil {
			return err
		}
		// One link is the node's own, to the switch.
		if n := strings.Count(links, "\n"); n != sandboxes+1 {
			return fmt.Errorf("%d sandboxes, %d links:\n%s", sandboxes, n, links)
		}
		return nil
	})
}
