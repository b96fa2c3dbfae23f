package docker

import (
	"errors"
	"testing"

	"github.com/whalepod/whalepod/node/runtime"
)

func TestNoHandler(t *testing.T) {
	for _, words := range []string{"Error response from daemon: Unknown runtime specified kata", "Error response from daemon: unknown or invalid runtime name: kata"} {
		err := noHandler(classifyCreate(errors.New(words)), "kata")
		if !errors.Is(err, runtime.ErrNoHandler) || err.Error() != `failed to get sandbox runtime: no runtime for "kata" is configured` {
			t.Errorf("%s: %v", words, err)
		}
	}
	other := errors.New("no space left on device")
	if err := noHandler(other, "kata"); !errors.Is(err, other) || errors.Is(err, runtime.ErrNoHandler) {
		t.Error(err)
	}
}

func TestSandboxHandler(t *testing.T) {
	if _, host := sandboxRequest("n", runtime.SandboxSpec{RuntimeHandler: "kata"}, features{}); host.Runtime != "kata" {
		t.Errorf("runtime %q", host.Runtime)
	}
	_, host, err := containerRequest("n", runtime.ContainerSpec{RuntimeHandler: "kata"}, features{})
	if err != nil || host.Runtime != "kata" {
		t.Errorf("runtime %q, %v", host.Runtime, err)
	}
}
