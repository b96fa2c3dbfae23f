package image

import (
	"errors"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/whalepod/whalepod/node/runtime"
)

func failed(r Request, reason, message string, retry time.Duration) *Error {
	r.Event(corev1.EventTypeWarning, "Failed", "Error: "+reason)
	return &Error{Reason: reason, Message: message, RetryAt: time.Now().Add(retry)}
}

func (p *Puller) present(r Request) {
	r.Event(corev1.EventTypeNormal, "Pulled", fmt.Sprintf("Container image %q already present on machine and can be accessed by the pod", r.Ref))
}

// explain says which it is: no such image, no rights, no network. The words are the kubelet's for the last, and built
// alike for the others, before those of the engine.
func explain(ref string, err error, asked bool) string {
	why := ""
	switch {
	case errors.Is(err, runtime.ErrImageMissing):
		why = "the registry has no such image"
	case errors.Is(err, runtime.ErrImageDenied) && asked:
		why = "the registry denies access with the credentials given"
	case errors.Is(err, runtime.ErrImageDenied):
		why = "the registry denies access and no pull secret of the pod is for it"
	case errors.Is(err, runtime.ErrRegistryUnavailable):
		why = "the registry is unavailable"
	default:
		return err.Error()
	}
	return fmt.Sprintf("image pull failed for %s because %s: %v", ref, why, err)
}
