//go:build e2e

package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
)

// TestRedisKeepsItsNames is statefulset-redis.yml and what its comment says to look at: order, names, a rolling update
// with a partition, the way back, and scaling down.
func TestRedisKeepsItsNames(t *testing.T) {
	t.Parallel()
	k := newest.in(t, namespace(t))
	seen := watchLives(t, k, "app=redis")
	prints(t, "apply", k.run(t, "apply", "-f", example("statefulset-redis.yml")), `^service/redis created$`, `^statefulset.apps/redis created$`)
	prints(t, "rollout status", k.run(t, "rollout", "status", "statefulset/redis", "--timeout=3m"), `roll out complete: 3 new pods have been updated`)
	table(t, k.run(t, "get", "statefulset")).has("NAME", "READY", "AGE").row("redis")
	oneAfterTheOther(t, k, seen, "redis-0", "redis-1", "redis-2")

	redisAnswers(t, k)
	old := redisPods(t, k)["redis-1"]
	k.run(t, "delete", "pod", "redis-1")
	eventually(t, settle, "redis-1 is back", func() error {
		if now := redisPods(t, k)["redis-1"]; now.UID == old.UID || !podIsReady(now) {
			return fmt.Errorf("uid %s was %s, phase %s", now.UID, old.UID, now.Status.Phase)
		}
		return nil
	})
	redisAnswers(t, k)

	// A canary: only the last one changes.
	before := redisPods(t, k)
	k.run(t, "patch", "statefulset", "redis", "-p", `{"spec":{"updateStrategy":{"rollingUpdate":{"partition":2}}}}`)
	k.run(t, "set", "env", "statefulset/redis", "LANG=C.UTF-8")
	prints(t, "rollout status", k.run(t, "rollout", "status", "statefulset/redis", "--timeout=3m"), `roll out complete: 1 new pods have been updated`)
	onlyReplaced(t, k, before, "redis-2")
	k.run(t, "patch", "statefulset", "redis", "-p", `{"spec":{"updateStrategy":{"rollingUpdate":{"partition":0}}}}`)
	prints(t, "rollout status", k.run(t, "rollout", "status", "statefulset/redis", "--timeout=3m"), `roll out complete: 3 new pods have been updated`)
	onlyReplaced(t, k, before, "redis-0", "redis-1", "redis-2")
	oneAfterTheOther(t, k, seen, "redis-2", "redis-1", "redis-0")
	redisAnswers(t, k)

	prints(t, "rollout history", k.run(t, "rollout", "history", "statefulset/redis"), `^1 `, `^2 `)
	prints(t, "rollout undo", k.run(t, "rollout", "undo", "statefulset/redis"), `^statefulset.apps/redis rolled back$`)
	k.run(t, "rollout", "status", "statefulset/redis", "--timeout=3m")
	for name, pod := range redisPods(t, k) {
		if len(pod.Spec.Containers[0].Env) > 0 {
			t.Errorf("%s still has %v", name, pod.Spec.Containers[0].Env)
		}
	}
	oneAfterTheOther(t, k, seen, "redis-2", "redis-1", "redis-0")
	prints(t, "rollout history", k.run(t, "rollout", "history", "statefulset/redis"), `^2 `, `^3 `)

	soFar := len(seen())
	prints(t, "scale", k.run(t, "scale", "statefulset", "redis", "--replicas=1"), `^statefulset.apps/redis scaled$`)
	eventually(t, settle, "redis-2 and redis-1 go", func() error {
		got := slices.DeleteFunc(seen()[soFar:], func(s string) bool { return !strings.HasSuffix(s, " gone") })
		if !slices.Equal(got, []string{"redis-2 gone", "redis-1 gone"}) {
			return fmt.Errorf("deleted: %v", got)
		}
		return nil
	})
	// Whoever comes again finds its data.
	prints(t, "claims", k.run(t, "get", "pvc"), `^data-redis-0 +Bound `, `^data-redis-1 +Bound `, `^data-redis-2 +Bound `)
	prints(t, "events", k.run(t, "get", "events", "--field-selector", "involvedObject.name=redis,involvedObject.kind=StatefulSet"),
		`SuccessfulCreate .*[cC]reate Pod redis-0 in StatefulSet redis successful`, `SuccessfulDelete .*[dD]elete Pod redis-2 in StatefulSet redis successful`)
	prints(t, "delete", k.run(t, "delete", "statefulset", "redis", "--cascade=orphan"), `^statefulset.apps "redis" deleted`)
	if pods := redisPods(t, k); len(pods) != 1 || len(pods["redis-0"].OwnerReferences) != 0 {
		t.Errorf("left to itself: %d pods, owners %v", len(pods), pods["redis-0"].OwnerReferences)
	}
}

func redisPods(t testing.TB, k cli) map[string]corev1.Pod {
	t.Helper()
	var list corev1.PodList
	if err := json.Unmarshal([]byte(k.run(t, "get", "pods", "-l", "app=redis", "-o", "json")), &list); err != nil {
		t.Fatal(err)
	}
	pods := map[string]corev1.Pod{}
	for _, p := range list.Items {
		pods[p.Name] = p
	}
	return pods
}

func podIsReady(p corev1.Pod) bool { return isReady(&p) && p.DeletionTimestamp == nil }

// oneAfterTheOther: each was made when the one before it had become ready, as a watch saw it. What their conditions say by now
// does not count: a probe that was slow once has moved the time.
func oneAfterTheOther(t testing.TB, k cli, seen func() []string, names ...string) {
	t.Helper()
	pods := redisPods(t, k)
	var want []string
	for _, name := range names {
		want = append(want, string(pods[name].UID)+" made", string(pods[name].UID)+" ready")
	}
	eventually(t, settle, fmt.Sprintf("one after the other: %v", names), func() error {
		got := slices.DeleteFunc(seen(), func(s string) bool { return !slices.Contains(want, s) })
		if !slices.Equal(got, want) {
			return fmt.Errorf("%v, want %v", got, want)
		}
		return nil
	})
}

// onlyReplaced: exactly these pods are others than before.
func onlyReplaced(t testing.TB, k cli, before map[string]corev1.Pod, names ...string) {
	t.Helper()
	for name, pod := range redisPods(t, k) {
		if replaced := pod.UID != before[name].UID; replaced != slices.Contains(names, name) {
			t.Errorf("%s was replaced: %v", name, replaced)
		}
	}
}

// redisAnswers: host names are the pods' own, each finds the others by name, and what the first is told the last repeats.
func redisAnswers(t testing.TB, k cli) {
	t.Helper()
	for name, pod := range redisPods(t, k) {
		prints(t, "hostname of "+name, k.run(t, "exec", name, "--", "cat", "/etc/hostname"), `^`+name+`$`)
		eventually(t, settle, name+".redis resolves", func() error {
			r := k.try(t, "exec", "redis-0", "--", "getent", "hosts", name+".redis")
			if r.err != nil || !strings.HasPrefix(r.stdout, pod.Status.PodIP+" ") {
				return fmt.Errorf("%q, want %s: %v %s", r.stdout, pod.Status.PodIP, r.err, r.stderr)
			}
			return nil
		})
	}
	told := fmt.Sprint("told-", time.Now().UnixNano())
	k.run(t, "exec", "redis-0", "--", "redis-cli", "set", "whale", told)
	eventually(t, settle, "redis-2 has copied it", func() error {
		if got := strings.TrimSpace(k.run(t, "exec", "redis-2", "--", "redis-cli", "get", "whale")); got != told {
			return fmt.Errorf("%q", got)
		}
		return nil
	})
}

// watchLives begins to follow the pods with a label, and returns what tells what was seen of them, in its order: "UID made",
// "UID ready" the first time that they are, and "NAME gone".
func watchLives(t testing.TB, k cli, label string) func() []string {
	t.Helper()
	present := strings.Count(k.run(t, "get", "pods", "-l", label, "-o", "name"), "\n")
	ctx, cancel := context.WithCancel(t.Context())
	cmd := k.command(ctx, "get", "pods", "-l", label, "--watch", "--output-watch-events", "-o", "json")
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	var mu sync.Mutex
	var lives []string
	var done sync.WaitGroup
	listed := make(chan struct{})
	if present == 0 {
		close(listed)
	}
	done.Go(func() {
		defer func(c *exec.Cmd) { _ = c.Wait() }(cmd) // killed by cancel
		for events := json.NewDecoder(stdout); ; {
			var e struct {
				Type   string     `json:"type"`
				Object corev1.Pod `json:"object"`
			}
			if events.Decode(&e) != nil {
				return
			}
			mu.Lock()
			note := func(what string) {
				if !slices.Contains(lives, what) {
					lives = append(lives, what)
				}
			}
			uid := string(e.Object.UID)
			if note(uid + " made"); isReady(&e.Object) {
				note(uid + " ready")
			}
			if e.Type == "DELETED" {
				lives = append(lives, e.Object.Name+" gone")
			}
			mu.Unlock()
			if present--; present == 0 {
				close(listed)
			}
		}
	})
	t.Cleanup(func() { cancel(); done.Wait() })
	select {
	case <-listed:
	case <-time.After(commandLimit):
		t.Fatal("kubectl get --watch shows no pods")
	}
	return func() []string {
		mu.Lock()
		defer mu.Unlock()
		return slices.Clone(lives)
	}
}
