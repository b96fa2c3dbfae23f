package sessions

import (
	"errors"
	"io"
	"net/http"
	"strings"
	"testing"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
)

// TestStatusOf: what an agent says in plain text is told as Kubernetes' API server tells what a kubelet says.
func TestStatusOf(t *testing.T) {
	const words = "container \"x\" in pod \"y\" is waiting to start: ContainerCreating\n"
	for code, want := range map[int]string{
		200: "", 206: "",
		400: `container "x" in pod "y" is waiting to start: ContainerCreating`,
		404: "the server could not find the requested resource (get pods/log y)",
		500: `Internal error occurred: container "x" in pod "y" is waiting to start: ContainerCreating`,
	} {
		err := statusOf(&http.Response{StatusCode: code, Body: io.NopCloser(strings.NewReader(words))}, "y")
		var told *apierrors.StatusError
		switch {
		case want == "":
			if err != nil {
				t.Error(code, err)
			}
		case !errors.As(err, &told) || int(told.ErrStatus.Code) != code || !strings.HasPrefix(err.Error(), strings.TrimSuffix(want, "(get pods/log y)")):
			t.Errorf("%d: %v", code, err)
		}
	}
}
