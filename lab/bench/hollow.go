package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

const (
	hollowNodes = 1000
	// hollowSteps Deployments of hollowStep pods each, hollowEach at a time: 30,000 pods, so that it shows where it bends.
	hollowSteps, hollowEach, hollowStep = 3, 10, 1000
	// settleLimit is for one thing that the cluster is waited for.
	settleLimit = 10 * time.Minute
	// hollowCIDR has a /24 for each of 4,096 nodes.
	hollowCIDR = "10.0.0.0/12"
)

// hollow measures a wp-master with a thousand nodes that run nothing: real sessions, made-up statuses.
func (b *bench) hollow(ctx context.Context) error {
	m, err := b.startMaster(ctx, filepath.Join(b.dir, "hollow"), "--pod-cidr", hollowCIDR)
	if err != nil {
		return err
	}
	defer func() { _ = m.stop() }()
	if err := m.waitServiceAccount(ctx); err != nil {
		return err
	}
	h := &hollowRun{b: b, m: m}
	if h.http, err = m.connect(); err != nil {
		return err
	}
	if err := h.startNodes(ctx); err != nil {
		return err
	}
	defer h.stopNodes()
	for _, part := range []func(context.Context) error{h.join, h.fill, h.roll, h.empty} {
		if err := part(ctx); err != nil {
			return fmt.Errorf("%w\n%s", err, m.logTail())
		}
	}
	return nil
}

// hollowRun is a master with hollow nodes.
type hollowRun struct {
	b     *bench
	m     *masterProcess
	http  *http.Client
	nodes *exec.Cmd
	began time.Time
	ended chan error // of nodes
	log   *os.File
}

func (h *hollowRun) startNodes(ctx context.Context) error {
	wpctl := exec.CommandContext(ctx, filepath.Join(h.b.bin, "wpctl"), "token", "create", "--print-join-command",
		"--kubeconfig", filepath.Join(h.m.dir, "data", "admin.kubeconfig"))
	line, err := wpctl.Output()
	if err != nil {
		return fmt.Errorf("join token: %w", err)
	}
	options := strings.Fields(string(line)) // wp-agent join --master …, whose port is the usual one
	if len(options) < 5 {
		return fmt.Errorf("join line %q", line)
	}
	if h.log, err = os.Create(filepath.Join(h.m.dir, "hollow.log")); err != nil {
		return err
	}
	args := append([]string{"hollow", "--nodes", fmt.Sprint(hollowNodes), "--master", h.m.nodes}, options[4:]...)
	h.nodes = exec.Command(filepath.Join(h.b.bin, "wp-agent"), args...)
	h.nodes.Stderr = h.log
	h.began = time.Now()
	if err := h.nodes.Start(); err != nil {
		return err
	}
	h.ended = make(chan error, 1)
	go func() { h.ended <- h.nodes.Wait() }()
	return nil
}

func (h *hollowRun) join(ctx context.Context) error {
	took, err := h.until(ctx, "all nodes are ready", h.began, func() (bool, error) {
		var list struct{ Items []struct{ Status nodeStatus } }
		if err := h.get(ctx, "/api/v1/nodes", &list); err != nil {
			return false, err
		}
		ready := 0
		for _, n := range list.Items {
			if n.Status.ready() {
				ready++
			}
		}
		return ready == hollowNodes, nil
	})
	if err != nil {
		return err
	}
	h.b.add(fmt.Sprintf("%d nodes join, until all are ready", hollowNodes), "%s s", figure(took.Seconds()))
	return h.rest(ctx, "at rest, without pods")
}

type nodeStatus struct {
	Conditions []struct{ Type, Status string }
}

func (s nodeStatus) ready() bool {
	for _, c := range s.Conditions {
		if c.Type == "Ready" {
			return c.Status == "True"
		}
	}
	return false
}

func (h *hollowRun) stopNodes() {
	_ = h.nodes.Process.Signal(syscall.SIGTERM)
	kill := time.AfterFunc(20*time.Second, func() { _ = h.nodes.Process.Kill() })
	defer kill.Stop()
	<-h.ended
	_ = h.log.Close()
}

// fill creates Deployments, some at a time, and waits until all of their pods are ready.
func (h *hollowRun) fill(ctx context.Context) error {
	for step := range hollowSteps {
		cpu, err := processorTime(h.m.cmd.Process.Pid)
		if err != nil {
			return err
		}
		began := time.Now()
		for i := range hollowEach {
			if err := h.send(ctx, http.MethodPost, deploymentsPath, hollowDeployment(step*hollowEach+i)); err != nil {
				return err
			}
		}
		took, err := h.untilReady(ctx, began, (step+1)*hollowEach)
		if err != nil {
			return err
		}
		after, err := processorTime(h.m.cmd.Process.Pid)
		if err != nil {
			return err
		}
		pods := hollowEach * hollowStep
		h.b.add(fmt.Sprintf("%d Deployments of %d pods, until all are ready: pods %d to %d", hollowEach, hollowStep, step*pods, (step+1)*pods),
			"%s s, %s pods/s, %s ms of a core each", figure(took.Seconds()), figure(float64(pods)/took.Seconds()), figure(1000*(after-cpu).Seconds()/float64(pods)))
	}
	return h.rest(ctx, fmt.Sprintf("at rest, with %d pods", hollowSteps*hollowEach*hollowStep))
}

// roll changes the image of one Deployment, which has a Service.
func (h *hollowRun) roll(ctx context.Context) error {
	service := map[string]any{"apiVersion": "v1", "kind": "Service", "metadata": map[string]any{"name": "many"}, "spec": map[string]any{
		"selector": map[string]any{"app": hollowName(0)}, "ports": []any{map[string]any{"port": 80}},
	}}
	began := time.Now()
	if err := h.send(ctx, http.MethodPost, "/api/v1/namespaces/default/services", service); err != nil {
		return err
	}
	took, err := h.until(ctx, "the Service has its endpoints", began, func() (bool, error) {
		var list struct {
			Items []struct{ Endpoints []json.RawMessage }
		}
		err := h.get(ctx, "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices?labelSelector=kubernetes.io/service-name%3Dmany", &list)
		n := 0
		for _, s := range list.Items {
			n += len(s.Endpoints)
		}
		return n == hollowStep, err
	})
	if err != nil {
		return err
	}
	h.b.add(fmt.Sprintf("a Service is made of %d of them", hollowStep), "%s s", figure(took.Seconds()))
	began = time.Now()
	patch := []byte(`{"spec":{"template":{"spec":{"containers":[{"name":"c","image":"example.com/web:2"}]}}}}`)
	url := h.m.url + deploymentsPath + "/" + hollowName(0)
	if err := do(ctx, h.http, http.MethodPatch, url, "application/strategic-merge-patch+json", patch, nil); err != nil {
		return err
	}
	took, err = h.untilReady(ctx, began, hollowSteps*hollowEach)
	if err != nil {
		return err
	}
	h.b.add(fmt.Sprintf("a Deployment of %d pods is updated (25 %% at a time, each told to all nodes)", hollowStep), "%s s", figure(took.Seconds()))
	return nil
}

// empty deletes everything.
func (h *hollowRun) empty(ctx context.Context) error {
	began := time.Now()
	if err := do(ctx, h.http, http.MethodDelete, h.m.url+deploymentsPath, "", nil, nil); err != nil {
		return err
	}
	took, err := h.until(ctx, "all pods are gone", began, func() (bool, error) {
		var list struct{ Items []json.RawMessage }
		err := h.get(ctx, podsPath+"?limit=1", &list)
		return len(list.Items) == 0, err
	})
	if err == nil {
		h.b.add(fmt.Sprintf("%d pods deleted, until the last is gone", hollowSteps*hollowEach*hollowStep), "%s s", figure(took.Seconds()))
	}
	return err
}

// rest notes what master and nodes use when nothing happens.
func (h *hollowRun) rest(ctx context.Context, when string) error {
	wait(ctx, quiet)
	used, err := load(ctx, 20*time.Second, h.m.cmd.Process.Pid, h.nodes.Process.Pid)
	if err != nil {
		return err
	}
	mem, err := resident(h.m.cmd.Process.Pid)
	if err != nil {
		return err
	}
	theirs, err := resident(h.nodes.Process.Pid)
	if err != nil {
		return err
	}
	h.b.add("master "+when, "%s MB (%s), %s %% of a core", figure(mem.rss), mem.String(), figure(used[0]))
	h.b.add("all hollow nodes "+when, "%s MB, %s %% of a core", figure(theirs.rss), figure(used[1]))
	return nil
}

func (h *hollowRun) untilReady(ctx context.Context, began time.Time, deployments int) (time.Duration, error) {
	return h.until(ctx, "all Deployments are complete", began, func() (bool, error) {
		var list struct {
			Items []struct {
				Metadata struct{ Generation int64 }
				Status   struct {
					ObservedGeneration, Replicas, UpdatedReplicas, AvailableReplicas int64
				}
			}
		}
		err := h.get(ctx, deploymentsPath, &list)
		done := 0
		for _, d := range list.Items {
			if s := d.Status; s.ObservedGeneration == d.Metadata.Generation && s.Replicas == hollowStep && s.UpdatedReplicas == hollowStep && s.AvailableReplicas == hollowStep {
				done++
			}
		}
		return done == deployments, err
	})
}

// until asks again and again, and says how long it took from began on.
func (h *hollowRun) until(ctx context.Context, what string, began time.Time, done func() (bool, error)) (time.Duration, error) {
	ctx, cancel := context.WithTimeout(ctx, settleLimit)
	defer cancel()
	for {
		ok, err := done()
		if ok || err != nil {
			return time.Since(began), err
		}
		select {
		case err := <-h.ended:
			h.ended <- err
			said, _ := os.ReadFile(h.log.Name())
			return 0, fmt.Errorf("the hollow nodes ended: %w\n%s", err, said)
		default:
		}
		if wait(ctx, 250*time.Millisecond); ctx.Err() != nil {
			return 0, errors.Join(fmt.Errorf("not in %s: %s", settleLimit, what), ctx.Err())
		}
	}
}

func (h *hollowRun) get(ctx context.Context, path string, answer any) error {
	return do(ctx, h.http, http.MethodGet, h.m.url+path, "", nil, answer)
}

func (h *hollowRun) send(ctx context.Context, method, path string, body any) error {
	data, err := json.Marshal(body)
	if err != nil {
		return err
	}
	return do(ctx, h.http, method, h.m.url+path, "application/json", data, nil)
}

const deploymentsPath = "/apis/apps/v1/namespaces/default/deployments"

func hollowName(i int) string { return fmt.Sprintf("web-%d", i) }

func hollowDeployment(i int) any {
	type m = map[string]any
	labels := m{"app": hollowName(i)}
	return m{"apiVersion": "apps/v1", "kind": "Deployment", "metadata": m{"name": hollowName(i)}, "spec": m{
		"replicas": hollowStep, "selector": m{"matchLabels": labels},
		"template": m{"metadata": m{"labels": labels}, "spec": m{
			"containers": []m{{"name": "c", "image": "example.com/web:1", "resources": m{"requests": m{"cpu": "100m", "memory": "128Mi"}}}},
		}},
	}}
}
