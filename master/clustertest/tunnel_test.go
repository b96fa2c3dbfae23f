package clustertest

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"runtime"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/whalepod/whalepod/node/pods"
	noderuntime "github.com/whalepod/whalepod/node/runtime"
	"github.com/whalepod/whalepod/node/runtime/fake"
	"github.com/whalepod/whalepod/node/streams"
)

// proxied calls an agent through the API server: nodes/NAME/proxy/PATH.
func (c *cluster) proxied(ctx context.Context, node, path string, body io.Reader) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "https://127.0.0.1:6443/api/v1/nodes/"+node+"/proxy/"+path, body)
	if err != nil {
		return nil, err
	}
	return c.http.Do(req)
}

func TestTunnels(t *testing.T) {
	run(t, 2, func(c *cluster) {
		time.Sleep(time.Second)
		synctest.Wait()
		before := runtime.NumGoroutine()
		var wg sync.WaitGroup
		for i := range 50 {
			wg.Go(func() {
				node, text := fmt.Sprintf("n%d", i%2+1), fmt.Sprintf("hello %d", i)
				res, err := c.proxied(c.ctx, node, "echo?a=b", strings.NewReader(text))
				if err != nil {
					t.Error(err)
					return
				}
				defer res.Body.Close()
				got, err := io.ReadAll(res.Body)
				if want := "POST /echo?a=b\n" + text; err != nil || string(got) != want || res.Header.Get("Node") != node {
					t.Errorf("%q from %s, %v", got, res.Header.Get("Node"), err)
				}
			})
		}
		wg.Wait()
		big := bytes.Repeat([]byte("whalepod"), 4<<20) // 32 MB there and back
		res, err := c.proxied(c.ctx, "n1", "big", bytes.NewReader(big))
		if err != nil {
			t.Fatal(err)
		}
		got, err := io.ReadAll(res.Body)
		res.Body.Close()
		if _, rest, _ := bytes.Cut(got, []byte("\n")); err != nil || !bytes.Equal(rest, big) {
			t.Errorf("%d bytes of %d, %v", len(rest), len(big), err)
		}
		if res, err = c.proxied(c.ctx, "nobody", "x", nil); err != nil || res.StatusCode != http.StatusNotFound {
			t.Error(res, err)
		}
		res.Body.Close()
		c.quiet(before)
	})
}

// quiet waits until no more goroutines run than before, but for the client's one connection.
func (c *cluster) quiet(before int) {
	c.Helper()
	c.eventually(time.Minute, "no goroutine is left", func() bool {
		c.http.CloseIdleConnections()
		return runtime.NumGoroutine() <= before+6
	})
}

func TestTunnelEnds(t *testing.T) {
	run(t, 1, func(c *cluster) {
		a := c.agents["n1"]
		drip := func(ctx context.Context) *http.Response {
			res, err := c.proxied(ctx, "n1", "drip", nil)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := io.ReadFull(res.Body, make([]byte, 10)); err != nil {
				t.Fatal(err)
			}
			return res
		}
		time.Sleep(time.Second)
		synctest.Wait()
		before := runtime.NumGoroutine()
		// The client goes.
		ctx, cancel := context.WithCancel(c.ctx)
		res := drip(ctx)
		cancel()
		res.Body.Close()
		c.quiet(before)
		// One that does not read holds up nobody.
		stuck := drip(c.ctx)
		time.Sleep(10 * time.Second)
		c.createPod(pinned("p1", "n1"))
		c.eventually(10*time.Second, "it runs", func() bool { return c.running("p1") })
		// The agent goes: the stream ends, new ones are refused at once and in words.
		a.cable(false)
		done := make(chan struct{})
		go func() { _, _ = io.Copy(io.Discard, stuck.Body); close(done) }()
		select {
		case <-done:
		case <-time.After(10 * time.Second):
			t.Error("the stream did not end with its agent")
		}
		stuck.Body.Close()
		began := time.Now()
		res, err := c.proxied(c.ctx, "n1", "x", nil)
		if err != nil {
			t.Fatal(err)
		}
		text, _ := io.ReadAll(res.Body)
		res.Body.Close()
		if res.StatusCode != http.StatusServiceUnavailable || !strings.Contains(string(text), "error dialing backend: node n1 has no session with the master") || time.Since(began) > time.Second {
			t.Errorf("%d %s after %v", res.StatusCode, text, time.Since(began))
		}
		// It comes back; then the master goes.
		a.cable(true)
		c.eventually(10*time.Second, "a stream", func() bool {
			res, err := c.proxied(c.ctx, "n1", "x", nil)
			if err != nil {
				return false
			}
			res.Body.Close()
			return res.StatusCode == http.StatusOK
		})
		res = drip(c.ctx)
		c.restartMaster(time.Second)
		if _, err := io.Copy(io.Discard, res.Body); err == nil {
			t.Error("a stream ended with the master, but without an error")
		}
		res.Body.Close()
	})
}

// logs reads them as kubectl does.
func (c *cluster) logs(pod string, o *corev1.PodLogOptions) (string, error) {
	stream, err := c.kube.CoreV1().Pods("default").GetLogs(pod, o).Stream(c.ctx)
	if err != nil {
		return "", err
	}
	defer stream.Close()
	data, err := io.ReadAll(stream)
	return string(data), err
}

// What kubectl logs asks for, on its way to the agent.
func TestLogsThroughTheTunnel(t *testing.T) {
	run(t, 1, func(c *cluster) {
		p := pinned("p1", "n1")
		p.Spec.Containers = append(p.Spec.Containers, corev1.Container{Name: "side", Image: "nginx:1"})
		p.Spec.InitContainers = []corev1.Container{{Name: "first", Image: "nginx:1"}}
		c.createPod(p)
		logs := func(o *corev1.PodLogOptions) (string, error) {
			return c.logs("p1", o)
		}
		got, err := logs(&corev1.PodLogOptions{Container: "side", Previous: true, TailLines: new(int64)})
		if err != nil || got != "GET /containerLogs/default/p1/side?previous=true&tailLines=0\n" {
			t.Errorf("%q %v", got, err)
		}
		for o, want := range map[*corev1.PodLogOptions]string{
			{}:                  "a container name must be specified for pod p1, choose one of: [web side] or one of the init containers: [first]",
			{Container: "nope"}: "container nope is not valid for pod p1",
		} {
			if _, err := logs(o); err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("%v, want %s", err, want)
			}
		}
		free := pinned("free", "")
		free.Spec.NodeSelector = map[string]string{"no": "such"}
		c.createPod(free)
		if got, err := c.logs("free", &corev1.PodLogOptions{}); err != nil || got != "" {
			t.Errorf("logs of a pod without a node: %q %v", got, err)
		}
		err = c.kube.CoreV1().RESTClient().Post().Namespace("default").Resource("pods").Name("free").SubResource("exec").Param("command", "sh").Do(c.ctx).Error()
		if err == nil || !strings.Contains(err.Error(), "pod free does not have a host assigned") {
			t.Error(err)
		}
		if _, err := c.logs("nobody", &corev1.PodLogOptions{}); err == nil || !strings.Contains(err.Error(), `pods "nobody" not found`) {
			t.Error(err)
		}
	})
}

type lookup struct{ pods *pods.Manager }

func (l lookup) Lookup(_ context.Context, namespace, pod, uid, container string, want streams.Want) (string, bool, int, error) {
	f, err := l.pods.Logs(namespace, pod, uid, container, want == streams.WantPrevious)
	if err != nil {
		return "", false, 0, streams.BadRequest("%s", err)
	}
	return f.ContainerID, f.TTY, f.SandboxPID, nil
}

// The whole way of kubectl logs: API server, tunnel, the agent's handler, the engine's output.
func TestLogsFromTheEngine(t *testing.T) {
	run(t, 1, func(c *cluster) {
		a := c.agents["n1"]
		a.stop()
		a.serve = func(ctx context.Context, conn net.Conn) {
			streams.New(streams.Config{Engine: a.engine.As("n1"), Lookup: lookup{a.manager}}).ServeConn(ctx, conn)
		}
		a.engine.Script("web", func(noderuntime.ContainerSpec) fake.Program {
			return fake.Program{Output: []string{"one", "two", "three"}, After: 20 * time.Second}
		})
		c.start(a)
		c.createPod(pinned("p1", "n1"))
		c.eventually(15*time.Second, "it runs", func() bool { return c.running("p1") })
		two := int64(2)
		if got, err := c.logs("p1", &corev1.PodLogOptions{TailLines: &two}); err != nil || got != "two\nthree\n" {
			t.Errorf("%q %v", got, err)
		}
		// -f ends when the container does.
		if got, err := c.logs("p1", &corev1.PodLogOptions{Follow: true}); err != nil || got != "one\ntwo\nthree\n" {
			t.Errorf("%q %v", got, err)
		}
		c.eventually(30*time.Second, "it runs again", func() bool {
			got, err := c.logs("p1", &corev1.PodLogOptions{Previous: true})
			return err == nil && got == "one\ntwo\nthree\n"
		})
	})
}
