package docker

import (
	"strings"
	"testing"
	"time"
)

// FuzzMessages: what an engine, or the registry behind it, says while it pulls and loads.
func FuzzMessages(f *testing.F) {
	f.Add(`{"status":"Downloading","id":"a","progressDetail":{"current":1,"total":-4}}` + "\n" + `{"status":"Pull complete","id":"a"}`)
	f.Add(`{"stream":"Loaded image: busybox:latest\nLoaded image ID: sha256:1\n"}{"errorDetail":{"message":"no space"},"error":"no"}`)
	f.Add(`{"status":"Extracting","progressDetail":{"current":9223372036854775807,"total":1}}`)
	f.Add(`{"progressDetail":null}[1]`)
	f.Fuzz(func(t *testing.T, said string) {
		var p pullProgress
		err := readMessages(strings.NewReader(said), func(m message) {
			p.add(m)
			if p.due(time.Now()) {
				_ = p.String()
			}
			for _, name := range m.loaded() {
				if strings.ContainsAny(name, "\n") {
					t.Errorf("name %q", name)
				}
			}
		}, func(string) {})
		_ = classifyPull(err)
		_ = classifyStart(err)
	})
}

// FuzzImageID: a container's image and the names that its engine knows it by.
func FuzzImageID(f *testing.F) {
	f.Add("sha256:1", "busybox:1", "busybox@sha256:2", "other@sha256:3")
	f.Add("", "", "", "@")
	f.Add("sha256:1", "A:B:C", "<none>@<none>", "")
	f.Fuzz(func(t *testing.T, id, asked, a, b string) {
		got := formatImageID(id, asked, named([]string{a, b}))
		if !strings.HasPrefix(got, "docker://") && !strings.HasPrefix(got, "docker-pullable://") {
			t.Errorf("%q", got)
		}
	})
}
