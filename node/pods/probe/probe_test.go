package probe

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/health"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/whalepod/whalepod/node/runtime"
)

type execFunc func(ctx context.Context, cmd []string, s runtime.Streams) (int, error)

func (f execFunc) Exec(ctx context.Context, _ string, cmd []string, s runtime.Streams) (int, error) {
	return f(ctx, cmd, s)
}

func target(port int) Target {
	return Target{PodIP: "127.0.0.1", Container: &corev1.Container{Name: "c", Ports: []corev1.ContainerPort{{Name: "web", ContainerPort: int32(port)}}, Env: []corev1.EnvVar{{Name: "A", Value: "1"}}}}
}

func TestHTTP(t *testing.T) {
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/ok":
			if r.Header.Get("User-Agent") != "kube-probe/1.36" || r.Header.Get("X-Test") != "1" || r.Host != "shop.example" || r.URL.RawQuery != "a=b" {
				w.WriteHeader(400)
			}
		case "/elsewhere":
			http.Redirect(w, r, "http://192.0.2.1/", http.StatusFound)
		case "/here":
			http.Redirect(w, r, "/missing", http.StatusFound)
		default:
			w.WriteHeader(500)
		}
	}))
	defer srv.Close()
	u, _ := url.Parse(srv.URL)
	port, _ := strconv.Atoi(u.Port())
	p := New(nil)
	tests := []struct {
		path string
		want Answer
	}{
		{"/ok?a=b", Answer{OK: true}},
		{"/missing", Answer{Output: "HTTP probe failed with statuscode: 500"}},
		{"/here", Answer{Output: "HTTP probe failed with statuscode: 500"}},
		{"/elsewhere", Answer{OK: true, Warning: true, Output: "Probe terminated redirects, Response body: <a href=\"http://192.0.2.1/\">Found</a>.\n\n"}},
	}
	for _, tt := range tests {
		spec := &corev1.Probe{TimeoutSeconds: 2, ProbeHandler: corev1.ProbeHandler{HTTPGet: &corev1.HTTPGetAction{Path: tt.path, Port: intstr.FromString("web"),
			HTTPHeaders: []corev1.HTTPHeader{{Name: "X-Test", Value: "1"}, {Name: "Host", Value: "shop.example"}}}}}
		got, err := p.Probe(t.Context(), spec, target(port))
		if err != nil || got != tt.want {
			t.Errorf("%s: %+v, %v", tt.path, got, err)
		}
	}
	if _, err := p.Probe(t.Context(), &corev1.Probe{ProbeHandler: corev1.ProbeHandler{HTTPGet: &corev1.HTTPGetAction{Port: intstr.FromString("nope")}}}, target(port)); err == nil || err.Error() != "couldn't find port: nope in container: c" {
		t.Error(err)
	}
}

// The words are those of an http.Client with a timeout, as the kubelet's is, not those of a context.
func TestHTTPTimeout(t *testing.T) {
	srv := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }))
	defer srv.Close()
	u, _ := url.Parse(srv.URL)
	port, _ := strconv.Atoi(u.Port())
	get := &corev1.HTTPGetAction{Path: "/slow", Port: intstr.FromInt(port)}
	a, err := New(nil).Probe(t.Context(), &corev1.Probe{TimeoutSeconds: 1, ProbeHandler: corev1.ProbeHandler{HTTPGet: get}}, target(port))
	want := fmt.Sprintf("Get \"http://127.0.0.1:%d/slow\": context deadline exceeded (Client.Timeout exceeded while awaiting headers)", port)
	if err != nil || a.OK || a.Output != want {
		t.Errorf("%+v %v, want %s", a, err, want)
	}
}

func TestTCP(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	port := l.Addr().(*net.TCPAddr).Port
	spec := &corev1.Probe{TimeoutSeconds: 1, ProbeHandler: corev1.ProbeHandler{TCPSocket: &corev1.TCPSocketAction{Port: intstr.FromInt32(int32(port))}}}
	p := New(nil)
	if a, err := p.Probe(t.Context(), spec, target(port)); !a.OK || err != nil {
		t.Error(a, err)
	}
	_ = l.Close()
	want := fmt.Sprintf("dial tcp 127.0.0.1:%d: connect: connection refused", port)
	if a, err := p.Probe(t.Context(), spec, target(port)); a.OK || err != nil || a.Output != want {
		t.Error(a, err)
	}
}

func TestExec(t *testing.T) {
	p := New(execFunc(func(ctx context.Context, cmd []string, s runtime.Streams) (int, error) {
		switch cmd[0] {
		case "error":
			return 0, errors.New("engine away")
		case "hang":
			<-ctx.Done()
			return 0, ctx.Err()
		case "silence":
			<-ctx.Done()
			return 0, errors.Join(runtime.ErrUnavailable, ctx.Err())
		}
		fmt.Fprint(s.Stdout, strings.Join(cmd, " "))
		return len(cmd) - 2, nil
	}))
	probe := func(cmd ...string) (Answer, error) {
		return p.Probe(t.Context(), &corev1.Probe{TimeoutSeconds: 1, ProbeHandler: corev1.ProbeHandler{Exec: &corev1.ExecAction{Command: cmd}}}, target(1))
	}
	if a, err := probe("x", "$(A)"); err != nil || !a.OK || a.Output != "x 1" {
		t.Error(a, err)
	}
	if a, err := probe("x", "y", "z"); err != nil || a.OK || a.Output != "x y z" {
		t.Error(a, err)
	}
	if _, err := probe("error"); err == nil {
		t.Error("no error")
	}
	// An engine that hangs says nothing about the container.
	if a, err := probe("silence"); err == nil {
		t.Error(a)
	}
	if a, err := probe("hang"); err != nil || a.Output != `command timed out: ["hang"] timed out after 1s` {
		t.Error(a, err)
	}
}

func TestGRPC(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	srv, h := grpc.NewServer(), health.NewServer()
	healthv1.RegisterHealthServer(srv, h)
	go func() { _ = srv.Serve(l) }()
	defer srv.Stop()
	h.SetServingStatus("sick", healthv1.HealthCheckResponse_NOT_SERVING)
	p := New(nil)
	probe := func(port int, service string) Answer {
		a, err := p.Probe(t.Context(), &corev1.Probe{TimeoutSeconds: 1, ProbeHandler: corev1.ProbeHandler{GRPC: &corev1.GRPCAction{Port: int32(port), Service: &service}}}, target(1))
		if err != nil {
			t.Error(err)
		}
		return a
	}
	port := l.Addr().(*net.TCPAddr).Port
	if a := probe(port, ""); !a.OK {
		t.Error(a)
	}
	if a := probe(port, "sick"); a.OK || a.Output != `service unhealthy (responded with "NOT_SERVING")` {
		t.Error(a)
	}
	srv.Stop()
	if a := probe(port, ""); a.OK || !strings.HasPrefix(a.Output, "timeout: failed to connect service") {
		t.Error(a)
	}
}

// script answers one after the other and notes when it was asked.
func TestRunKeepsThresholdsAndTimes(t *testing.T) {
	tests := []struct {
		name    string
		kind    Kind
		spec    corev1.Probe
		answers string // + good, - bad, ! cannot be asked
		want    string // results with the second they came
	}{
		{"readiness", Readiness, corev1.Probe{InitialDelaySeconds: 5, PeriodSeconds: 10, SuccessThreshold: 1, FailureThreshold: 3}, "-++--+---+", "15:true 85:false 95:true"},
		{"readiness, two to succeed", Readiness, corev1.Probe{PeriodSeconds: 1, SuccessThreshold: 2, FailureThreshold: 1}, "+-++-", "3:true 4:false"},
		{"liveness ends with failure", Liveness, corev1.Probe{InitialDelaySeconds: 30, PeriodSeconds: 10, FailureThreshold: 3}, "++--+---++", "100:false"},
		{"startup ends with success", Startup, corev1.Probe{PeriodSeconds: 2, FailureThreshold: 3}, "--+--", "4:true"},
		{"startup ends with failure", Startup, corev1.Probe{PeriodSeconds: 2, FailureThreshold: 3}, "---", "4:false"},
		{"what cannot be asked does not count", Liveness, corev1.Probe{PeriodSeconds: 10, FailureThreshold: 2}, "-!!!-", "20:false"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ctx, cancel := context.WithCancel(t.Context())
				defer cancel()
				start := time.Now()
				answers := tt.answers
				p := New(execFunc(func(context.Context, []string, runtime.Streams) (int, error) {
					if answers == "" {
						cancel()
						return 0, ctx.Err()
					}
					a := answers[0]
					answers = answers[1:]
					switch a {
					case '+':
						return 0, nil
					case '-':
						return 1, nil
					}
					return 0, errors.New("engine away")
				}))
				spec := tt.spec
				spec.Exec = &corev1.ExecAction{Command: []string{"x"}}
				c := &corev1.Container{StartupProbe: &spec, LivenessProbe: &spec, ReadinessProbe: &spec}
				var got []string
				p.Run(ctx, tt.kind, Target{Container: c}, Schedule{Started: start}, false, Tell{
					Result: func(ok bool) { got = append(got, fmt.Sprintf("%d:%v", int(time.Since(start).Seconds()), ok)) },
					Event:  func(string, string) {},
				})
				if s := strings.Join(got, " "); s != tt.want {
					t.Errorf("got %s, want %s", s, tt.want)
				}
			})
		})
	}
}

func TestHooks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := New(execFunc(func(_ context.Context, _ []string, s runtime.Streams) (int, error) {
			fmt.Fprint(s.Stderr, "oops")
			return 3, nil
		}))
		start := time.Now()
		if err := p.Hook(t.Context(), &corev1.LifecycleHandler{Sleep: &corev1.SleepAction{Seconds: 7}}, target(1), "p"); err != nil || time.Since(start) != 7*time.Second {
			t.Error(err, time.Since(start))
		}
		err := p.Hook(t.Context(), &corev1.LifecycleHandler{Exec: &corev1.ExecAction{Command: []string{"sh", "-c", "x"}}}, target(1), "p_ns(u)")
		want := `Exec lifecycle hook ([sh -c x]) for Container "c" in Pod "p_ns(u)" failed - error: command 'sh -c x' exited with 3, message: "oops"`
		if err == nil || err.Error() != want {
			t.Error(err)
		}
	})
}
