package docker

import (
	"strings"
	"testing"
	"time"
)

func TestPullProgress(t *testing.T) {
	const said = `{"status":"Pulling from library/x","id":"latest"}
{"status":"Pulling fs layer","id":"a"}
{"status":"Pulling fs layer","id":"b"}
{"status":"Already exists","id":"c"}
{"status":"Downloading","id":"a","progressDetail":{"current":1000000,"total":4000000}}
{"status":"Downloading","id":"b","progressDetail":{"current":500000,"total":2000000}}
{"status":"Download complete","id":"b"}
{"status":"Extracting","id":"b","progressDetail":{"current":100,"total":2000000}}
{"status":"Pull complete","id":"b"}
{"status":"Digest: sha256:1"}
`
	var p pullProgress
	if p.due(time.Now()) {
		t.Error("there is something to tell before anything was said")
	}
	if err := readMessages(strings.NewReader(said), p.add, nil); err != nil {
		t.Fatal(err)
	}
	if got := p.String(); got != "2 of 3 layers done, 3.0 MB downloaded" {
		t.Error(got)
	}
	now := time.Now()
	if !p.due(now) || p.due(now.Add(progressEvery-1)) || !p.due(now.Add(progressEvery)) {
		t.Error("it is not told once in", progressEvery)
	}
}
