package streams

import (
	"errors"
	"fmt"
	"net/http"
	"strings"

	corev1 "k8s.io/api/core/v1"

	"github.com/whalepod/whalepod/node/runtime"
)

// Error is told to the user word for word, with a status code. The words are the kubelet's.
type Error struct {
	Code    int
	Message string
}

func (e *Error) Error() string { return e.Message }

// NotFound makes an Error with status 404.
func NotFound(format string, args ...any) error {
	return &Error{http.StatusNotFound, fmt.Sprintf(format, args...)}
}

// BadRequest makes an Error with status 400.
func BadRequest(format string, args ...any) error {
	return &Error{http.StatusBadRequest, fmt.Sprintf(format, args...)}
}

// PodUnknown says that this node has no such pod.
func PodUnknown(pod string) error { return NotFound("pod %q does not exist", pod) }

// ContainerUnknown says that the pod has no such container.
func ContainerUnknown(pod, container string) error {
	return NotFound("container %q not found in pod %q", container, pod)
}

// fail answers a request that has not been upgraded, in plain text as a kubelet does.
func (h *Handler) fail(w http.ResponseWriter, r *http.Request, err error) {
	code := http.StatusInternalServerError
	var told *Error
	switch {
	case errors.As(err, &told):
		code = told.Code
	case errors.Is(err, runtime.ErrNotFound):
		code = http.StatusNotFound
	case errors.Is(err, runtime.ErrUnavailable):
		code = http.StatusServiceUnavailable
	}
	h.log.Debug("stream refused", "path", r.URL.Path, "err", err)
	http.Error(w, err.Error(), code)
}

// Reasons of waiting that have words of their own.
const (
	reasonPull    = "ErrImagePull"
	reasonBackOff = "ImagePullBackOff"
)

// LogContainer picks from a pod's status the container whose logs are meant, as the kubelet does: the running one, or
// the last that ended, or with previous the one before. It returns the ID in the engine.
func LogContainer(status *corev1.PodStatus, pod, container string, previous bool) (string, error) {
	c := findStatus(status, container)
	if c == nil {
		return "", BadRequest("container %q in pod %q is not available", container, pod)
	}
	last := ""
	if t := c.LastTerminationState.Terminated; t != nil {
		last = t.ContainerID
	}
	switch {
	case previous:
		if last == "" {
			return "", BadRequest("previous terminated container %q in pod %q not found", container, pod)
		}
		return engineID(last), nil
	case c.State.Running != nil:
		return engineID(c.ContainerID), nil
	case c.State.Terminated != nil && c.State.Terminated.ContainerID != "":
		return engineID(c.State.Terminated.ContainerID), nil
	case last != "":
		return engineID(last), nil
	case c.State.Terminated != nil || c.LastTerminationState.Terminated != nil:
		return "", BadRequest("container %q in pod %q is terminated", container, pod)
	case c.State.Waiting == nil:
		return "", BadRequest("container %q in pod %q is waiting to start - no logs yet", container, pod)
	}
	why := c.State.Waiting.Reason
	switch why {
	case reasonPull:
		why = "image can't be pulled"
	case reasonBackOff:
		why = "trying and failing to pull image"
	}
	return "", BadRequest("container %q in pod %q is waiting to start: %s", container, pod, why)
}

func findStatus(status *corev1.PodStatus, container string) *corev1.ContainerStatus {
	for _, list := range [][]corev1.ContainerStatus{
		status.ContainerStatuses, status.InitContainerStatuses, status.EphemeralContainerStatuses,
	} {
		for i := range list {
			if list[i].Name == container {
				return &list[i]
			}
		}
	}
	return nil
}

// engineID takes the scheme (docker://) away.
func engineID(id string) string {
	if _, rest, ok := strings.Cut(id, "://"); ok {
		return rest
	}
	return id
}
