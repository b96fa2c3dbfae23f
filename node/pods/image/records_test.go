package image

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/whalepod/whalepod/node/runtime"
)

const private = "registry.example:5000/team/app:1"

// secret is a pull secret for registry.example:5000.
func secret(namespace, name, uid, user string) *corev1.Secret {
	return &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name, UID: types.UID(uid)},
		Data: map[string][]byte{corev1.DockerConfigJsonKey: fmt.Appendf(nil,
			`{"auths":{"registry.example:5000":{"username":%q,"password":"x"}}}`, user)},
	}
}

func creds(secrets ...*corev1.Secret) Credentials { return FromSecrets(secrets).match(private) }

// TestRights is KEP-2535's table: who may use an image that is there.
func TestRights(t *testing.T) {
	one := creds(secret("a", "pull", "1", "u1"))
	for name, c := range map[string]struct {
		before func(*records)
		own    Credentials
		want   bool
	}{
		"preloaded":                                 {func(*records) {}, nil, true},
		"pulled without a password":                 {func(r *records) { r.add(private, "id", nil) }, nil, true},
		"pulled with a secret, none here":           {func(r *records) { r.add(private, "id", one[0].from) }, nil, false},
		"the same secret":                           {func(r *records) { r.add(private, "id", one[0].from) }, one, true},
		"another secret with the same password":     {func(r *records) { r.add(private, "id", one[0].from) }, creds(secret("b", "mine", "2", "u1")), true},
		"another password":                          {func(r *records) { r.add(private, "id", one[0].from) }, creds(secret("b", "mine", "2", "u2")), false},
		"the same secret with a new password":       {func(r *records) { r.add(private, "id", one[0].from) }, creds(secret("a", "pull", "1", "u2")), true},
		"one of several":                            {func(r *records) { r.add(private, "id", one[0].from) }, creds(secret("b", "x", "2", "u2"), secret("b", "y", "3", "u1")), true},
		"a secret of that name made anew":           {func(r *records) { r.add(private, "id", one[0].from) }, creds(secret("a", "pull", "9", "u2")), false},
		"with a secret, later without":              {func(r *records) { r.add(private, "id", one[0].from); r.add(private, "id", nil) }, nil, true},
		"under another name":                        {func(r *records) { r.add("registry.example:5000/other:1", "id", nil) }, nil, false},
		"another tag of the same":                   {func(r *records) { r.add("registry.example:5000/team/app:2", "id", nil) }, nil, true},
		"being pulled":                              {func(r *records) { r.begin(private) }, nil, false},
		"pull that failed":                          {func(r *records) { r.begin(private); r.end(private) }, nil, true},
		"pulled with a secret, loaded by the admin": {func(r *records) { r.add(private, "id", one[0].from); r.preload(private, "id") }, nil, true},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			r := openRecords(dir, slog.New(slog.DiscardHandler))
			c.before(r)
			if got := r.allows(private, "id", c.own); got != c.want {
				t.Errorf("allowed: %v", got)
			}
			if name == "being pulled" {
				return // the next agent counts it as broken: below
			}
			if got := openRecords(dir, r.log).allows(private, "id", c.own); got != c.want {
				t.Errorf("allowed after a restart: %v", got)
			}
		})
	}
}

// An agent that dies during a pull may leave the image; its rights are not known then.
func TestBrokenPull(t *testing.T) {
	dir, log := t.TempDir(), slog.New(slog.DiscardHandler)
	openRecords(dir, log).begin(private)
	r := openRecords(dir, log)
	if r.allows(private, "id", nil) {
		t.Error("an image of a broken pull counts as preloaded")
	}
	r.begin(private) // a pod without rights tries, and fails
	r.end(private)
	r = openRecords(dir, log)
	if r.allows(private, "id", nil) {
		t.Error("and does so later")
	}
	r.add(private, "id", nil)
	if !r.allows(private, "id", nil) {
		t.Error("a pull that went well did not help")
	}
}

func TestRecordsAreBoundedAndRobust(t *testing.T) {
	dir, log := t.TempDir(), slog.New(slog.DiscardHandler)
	r := openRecords(dir, log)
	for i := range 2 * secretsMax {
		r.add(private, "id", &Source{Namespace: "a", Name: fmt.Sprint(i), UID: fmt.Sprint(i), Hash: "h"})
	}
	if n := len(r.pulled["id"].Rights["registry.example:5000/team/app"].Secrets); n != secretsMax {
		t.Errorf("%d secrets remembered", n)
	}
	r.add(private, "gone", nil)
	r.prune(t.Context(), &listed{list: []runtime.Image{{ID: "id"}}})
	if r.pulled["gone"] != nil || r.pulled["id"] == nil {
		t.Error("pruned wrongly")
	}
	info, err := os.Stat(filepath.Join(dir, recordsFile))
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Error(info, err)
	}
	if left, _ := filepath.Glob(filepath.Join(dir, ".new-*")); len(left) > 0 {
		t.Error(left)
	}
	for _, text := range []string{"", "{", `{"pulled":{"x":null}}`, `[]`} {
		if err := os.WriteFile(filepath.Join(dir, recordsFile), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if !openRecords(dir, log).allows(private, "x", nil) {
			t.Error(text)
		}
	}
}

type listed struct {
	images
	list []runtime.Image
}

func (l *listed) Images(context.Context) ([]runtime.Image, error) { return l.list, nil }

// TestImageOfAnother: what came with one pod's secret is not there for the next.
func TestImageOfAnother(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, ev := &images{needsUser: "u1"}, &events{}
		dir := t.TempDir()
		p := New(Config{Images: f, Dir: dir})
		r := Request{PodUID: "a", Ref: private, Policy: corev1.PullIfNotPresent, Credentials: FromSecrets([]*corev1.Secret{secret("a", "pull", "1", "u1")}), Event: ev.add}
		if _, err := run(t, p, r); err != nil {
			t.Fatal(err)
		}
		for _, p := range []*Puller{p, New(Config{Images: f, Dir: dir})} {
			ev.take()
			if _, err := run(t, p, r); err != nil || f.pulls.Load() != 1 || !strings.Contains(ev.take(), "already present on machine and can be accessed by the pod") {
				t.Fatal(err, f.pulls.Load())
			}
			other := Request{PodUID: "b", Ref: private, Policy: corev1.PullNever, Event: ev.add}
			if _, err := run(t, p, other); err == nil || err.Reason != ErrImageNeverPull || err.Message != `Container image "`+private+`" is not present with pull policy of Never` {
				t.Fatal(err)
			}
			before := f.pulls.Load()
			other.Policy = corev1.PullIfNotPresent
			_, err := run(t, p, other)
			if err == nil || err.Reason != ErrImagePull || f.pulls.Load() != before+1 ||
				err.Message != "image pull failed for "+private+" because the registry denies access and no pull secret of the pod is for it: unauthorized: "+runtime.ErrImageDenied.Error() {
				t.Fatal(err)
			}
			other.PodUID, other.Credentials = "c", FromSecrets([]*corev1.Secret{secret("b", "pull", "2", "u2")})
			if _, err := run(t, p, other); err == nil || !strings.Contains(err.Message, "the registry denies access with the credentials given") {
				t.Fatal(err)
			}
			f.pulls.Store(1)
		}
	})
}

func TestWords(t *testing.T) {
	for err, want := range map[error]string{
		runtime.ErrImageMissing:        "image pull failed for x because the registry has no such image: image not found",
		runtime.ErrRegistryUnavailable: "image pull failed for x because the registry is unavailable: registry unavailable",
		errors.New("no space left"):    "no space left",
	} {
		if got := explain("x", err, true); got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
}

// TestLoaded: an image that the administrator brings is there at once for those who wait for it.
func TestLoaded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &images{err: errors.New("down")}
		p := New(Config{Images: f})
		silent := func(_, _, _ string) {}
		never := p.Start(t.Context(), Request{PodUID: "a", Ref: "shop", Policy: corev1.PullNever, Event: silent}, func() {})
		failing := p.Start(t.Context(), Request{PodUID: "b", Ref: "docker.io/library/shop:latest", Policy: corev1.PullIfNotPresent, Event: silent}, func() {})
		other := p.Start(t.Context(), Request{PodUID: "c", Ref: "other", Policy: corev1.PullNever, Event: silent}, func() {})
		synctest.Wait()
		time.Sleep(time.Second)
		f.mu.Lock()
		f.have = map[string]bool{"shop:latest": true}
		f.mu.Unlock()
		p.Loaded(t.Context(), []string{"shop:latest", "sha256:5891b5b522d5df086d0ff0b110fbd9d21bb4fc7163af34d08286a2e846f6be03", "not there", "neither"})
		for name, j := range map[string]*Job{"never": never, "failing": failing} {
			if _, err, done := j.Result(); !done || err == nil || !err.RetryAt.IsZero() {
				t.Error(name, err, done)
			}
		}
		if _, err, _ := other.Result(); err == nil || time.Until(err.RetryAt) < 20*time.Second {
			t.Error(err)
		}
		pulls := f.pulls.Load()
		for _, policy := range []corev1.PullPolicy{corev1.PullNever, corev1.PullIfNotPresent} {
			j := p.Start(t.Context(), Request{PodUID: "b", Ref: "shop", Policy: policy, Event: silent}, func() {})
			if _, err, done := j.Result(); err != nil || !done || f.pulls.Load() != pulls {
				t.Error(policy, err, done)
			}
		}
	})
}

// TestProgress: a pull that lasts is told of now and then, one that waits too.
func TestProgress(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, ev := &images{took: 45 * time.Second, says: []string{"1 of 3 layers done", "2 of 3 layers done"}}, &events{}
		p := New(Config{Images: f, Parallel: 1})
		first := p.Start(t.Context(), Request{PodUID: "a", Ref: "big", Policy: corev1.PullAlways, Event: ev.add}, func() {})
		synctest.Wait()
		late := &events{}
		second := p.Start(t.Context(), Request{PodUID: "b", Ref: "next", Policy: corev1.PullAlways, Event: late.add}, func() {})
		time.Sleep(15 * time.Second)
		f.say()
		time.Sleep(28 * time.Second)
		if got := ev.take(); got != "Pulling: Pulling image \"big\"\nPulling: Pulling image \"big\": 1 of 3 layers done\nPulling: Pulling image \"big\": 2 of 3 layers done" {
			t.Error(got)
		}
		if got := late.take(); got != "Pulling: Pulling image \"next\"\nPulling: Pulling image \"next\": waiting for other pulls to end" {
			t.Error(got)
		}
		first.Cancel()
		second.Cancel()
	})
}
