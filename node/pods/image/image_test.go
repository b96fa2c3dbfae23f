package image

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/whalepod/whalepod/node/runtime"
)

type images struct {
	mu        sync.Mutex
	have      map[string]bool
	err       error
	pulls     atomic.Int32
	running   atomic.Int32
	most      atomic.Int32
	took      time.Duration
	needsUser string
	// says is what a pull tells of itself: one thing at its beginning and one at each call of say.
	says     []string
	progress func(string)
}

func (f *images) say() {
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(f.says) > 0 && f.progress != nil {
		f.progress(f.says[0])
		f.says = f.says[1:]
	}
}

func (f *images) Image(_ context.Context, ref string) (runtime.Image, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.have[ref] {
		return runtime.Image{ID: "sha256:" + ref}, nil
	}
	return runtime.Image{}, fmt.Errorf("%s: %w", ref, runtime.ErrNotFound)
}

func (f *images) Pull(ctx context.Context, ref string, auth *runtime.Auth, progress func(string)) (runtime.Image, error) {
	f.pulls.Add(1)
	f.mu.Lock()
	f.progress = progress
	f.mu.Unlock()
	f.say()
	n := f.running.Add(1)
	defer f.running.Add(-1)
	if n > f.most.Load() {
		f.most.Store(n)
	}
	select {
	case <-time.After(f.took):
	case <-ctx.Done():
		return runtime.Image{}, ctx.Err()
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.needsUser != "" && (auth == nil || auth.Username != f.needsUser) {
		return runtime.Image{}, fmt.Errorf("unauthorized: %w", runtime.ErrImageDenied)
	}
	if f.err != nil {
		return runtime.Image{}, f.err
	}
	if f.have == nil {
		f.have = map[string]bool{}
	}
	f.have[ref] = true
	return runtime.Image{ID: "sha256:" + ref, SizeBytes: 1234}, nil
}
func (f *images) Images(context.Context) ([]runtime.Image, error) { return nil, nil }
func (f *images) Load(context.Context, io.Reader, func(string)) ([]string, error) {
	return nil, nil
}
func (f *images) RemoveImage(context.Context, string) error { return nil }

type events struct {
	mu  sync.Mutex
	all []string
}

func (e *events) add(_, reason, msg string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.all = append(e.all, reason+": "+msg)
}

func (e *events) take() string {
	e.mu.Lock()
	defer e.mu.Unlock()
	s := strings.Join(e.all, "\n")
	e.all = nil
	return s
}

func run(t *testing.T, p *Puller, r Request) (runtime.Image, *Error) {
	t.Helper()
	woken := make(chan struct{}, 1)
	j := p.Start(t.Context(), r, func() { woken <- struct{}{} })
	if _, _, done := j.Result(); !done {
		<-woken
	}
	image, err, done := j.Result()
	if !done {
		t.Fatal("woken but not done")
	}
	return image, err
}

func TestPolicies(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, ev := &images{took: 1500 * time.Millisecond}, &events{}
		p := New(Config{Images: f})
		r := Request{PodUID: "u", Ref: "nginx", Policy: corev1.PullNever, Event: ev.add}
		_, err := run(t, p, r)
		if err == nil || err.Reason != ErrImageNeverPull || ev.take() != "ErrImageNeverPull: Container image \"nginx\" is not present with pull policy of Never\nFailed: Error: ErrImageNeverPull" {
			t.Fatal(err)
		}
		r.Policy = corev1.PullIfNotPresent
		if _, err := run(t, p, r); err != nil {
			t.Fatal(err)
		}
		if got := ev.take(); got != "Pulling: Pulling image \"nginx\"\nPulled: Successfully pulled image \"nginx\" in 1.5s (1.5s including waiting). Image size: 1234 bytes." {
			t.Fatal(got)
		}
		if _, err := run(t, p, r); err != nil || f.pulls.Load() != 1 {
			t.Fatal(err, f.pulls.Load())
		}
		if got := ev.take(); got != "Pulled: Container image \"nginx\" already present on machine and can be accessed by the pod" {
			t.Fatal(got)
		}
		r.Policy = corev1.PullAlways
		if _, err := run(t, p, r); err != nil || f.pulls.Load() != 2 {
			t.Fatal(err, f.pulls.Load())
		}
		r.Ref = "Not A Name"
		if _, err := run(t, p, r); err == nil || err.Reason != InvalidImageName {
			t.Fatal(err)
		}
	})
}

func TestBackoff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, ev := &images{err: errors.New("manifest unknown")}, &events{}
		p := New(Config{Images: f})
		r := Request{PodUID: "u", Ref: "no/such:1", Policy: corev1.PullIfNotPresent, Event: ev.add}
		start := time.Now()
		var at []int
		for len(at) < 8 {
			before := f.pulls.Load()
			_, err := run(t, p, r)
			if f.pulls.Load() > before {
				at = append(at, int(time.Since(start).Seconds()))
				if err.Reason != ErrImagePull || err.Message != "manifest unknown" {
					t.Fatal(err)
				}
			} else if err.Reason != ImagePullBackOff || err.Message != `Back-off pulling image "no/such:1": ErrImagePull: manifest unknown` {
				t.Fatal(err)
			}
			time.Sleep(time.Until(err.RetryAt))
		}
		if got := fmt.Sprint(at); got != "[0 10 30 70 150 310 610 910]" {
			t.Fatal(got)
		}
		f.mu.Lock()
		f.err = nil
		f.mu.Unlock()
		for {
			_, err := run(t, p, r)
			if err == nil {
				break
			}
			time.Sleep(time.Until(err.RetryAt))
		}
	})
}

func TestPullsAreSharedBoundedAndCancelled(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &images{took: 10 * time.Second}
		p := New(Config{Images: f, Parallel: 2})
		var wg sync.WaitGroup
		for i := range 12 {
			wg.Go(func() {
				if _, err := run(t, p, Request{PodUID: fmt.Sprint(i), Ref: fmt.Sprintf("image%d", i%4), Policy: corev1.PullAlways, Event: func(_, _, _ string) {}}); err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		if f.pulls.Load() != 4 || f.most.Load() != 2 {
			t.Fatal(f.pulls.Load(), f.most.Load())
		}
		a := p.Start(t.Context(), Request{PodUID: "a", Ref: "x", Policy: corev1.PullAlways, Event: func(_, _, _ string) {}}, func() {})
		b := p.Start(t.Context(), Request{PodUID: "b", Ref: "x", Policy: corev1.PullAlways, Event: func(_, _, _ string) {}}, func() {})
		time.Sleep(time.Second)
		a.Cancel()
		synctest.Wait()
		if f.running.Load() != 1 {
			t.Fatal("the other's pull was ended too")
		}
		b.Cancel()
		synctest.Wait()
		if f.running.Load() != 0 {
			t.Fatal("a pull goes on that nobody wants")
		}
	})
}

func TestCredentials(t *testing.T) {
	auth := base64.StdEncoding.EncodeToString([]byte("u1:p1"))
	secret := &corev1.Secret{Data: map[string][]byte{corev1.DockerConfigJsonKey: []byte(`{"auths":{
		"registry.example:5000":{"auth":"` + auth + `"},
		"https://index.docker.io/v1/":{"username":"hub","password":"x"},
		"*.azurecr.io":{"username":"az","password":"x"},
		"registry.example:5000/team":{"username":"team","password":"x"}}}`)}}
	c := FromSecrets([]*corev1.Secret{secret, {Data: map[string][]byte{corev1.DockerConfigKey: []byte(`{"old.example":{"username":"old","password":"x"}}`)}}, {Data: map[string][]byte{corev1.DockerConfigJsonKey: []byte("{")}}})
	for ref, want := range map[string]string{
		"registry.example:5000/a/b:1": "u1", "registry.example:5000/team/x": "team,u1", "registry.example:5000/teams/x": "team,u1", "nginx": "hub", "me/app": "hub",
		"rworks.azurecr.io/wordpress:v1": "az", "a.b.azurecr.io/x": "", "old.example/x": "old", "gcr.io/x": "", "::": "",
	} {
		var users []string
		for _, a := range c.match(ref) {
			users = append(users, a.auth.Username)
		}
		if got := strings.Join(users, ","); got != want {
			t.Errorf("%s: %q, want %q", ref, got, want)
		}
	}
	synctest.Test(t, func(t *testing.T) {
		f := &images{needsUser: "u1"}
		p := New(Config{Images: f})
		r := Request{PodUID: "u", Ref: "registry.example:5000/team/x", Policy: corev1.PullAlways, Event: func(_, _, _ string) {}}
		if _, err := run(t, p, r); err == nil || !strings.Contains(err.Message, "unauthorized") {
			t.Fatal(err)
		}
		r.PodUID, r.Credentials = "v", c
		if _, err := run(t, p, r); err != nil {
			t.Fatal(err)
		}
	})
}

func FuzzDockerConfig(f *testing.F) {
	f.Add([]byte(`{"auths":{"https://*.example:5000/v1/":{"auth":"dTpw"}}}`), "nginx")
	f.Fuzz(func(t *testing.T, data []byte, ref string) {
		parseConfigJSON(data).match(ref)
	})
}
