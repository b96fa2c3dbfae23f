package image

import "testing"

func TestName(t *testing.T) {
	const digest = "@sha256:7cd8bcc629a5c72b641aa790bbdb8f751072e4b9aa6b5bd43d54e785d24b2764"
	for ref, want := range map[string]string{
		"nginx": "nginx:latest", "nginx:1": "nginx:1", "docker.io/library/nginx:1": "nginx:1", "docker.io/me/app": "me/app:latest",
		"registry.example:5000/app": "registry.example:5000/app:latest", "nginx" + digest: "nginx" + digest, "nginx:1" + digest: "nginx" + digest,
		"": "", "UPPER": "", "a:b:c": "",
	} {
		if got := Name(ref); got != want {
			t.Errorf("%q: %q, want %q", ref, got, want)
		}
	}
}
