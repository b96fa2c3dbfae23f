package registry

import (
	"errors"
	"fmt"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/whalepod/whalepod/api/resource"
	"github.com/whalepod/whalepod/master/internal/store"
)

func errorf(format string, args ...any) error { return fmt.Errorf(format, args...) }

// errModified is what Kubernetes answers to a write that is based on an old state.
var errModified = errors.New("the object has been modified; please apply your changes to the latest version and try again")

// statusError turns the store's sentinels into the API's errors; others pass.
func statusError(err error, res *resource.Resource, name string) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, store.ErrNotFound):
		return apierrors.NewNotFound(res.GroupResource(), name)
	case errors.Is(err, store.ErrExists):
		return apierrors.NewAlreadyExists(res.GroupResource(), name)
	case errors.Is(err, store.ErrConflict):
		return apierrors.NewConflict(res.GroupResource(), name, errModified)
	case errors.Is(err, store.ErrCompacted):
		return apierrors.NewResourceExpired("The resourceVersion for the provided watch is too old.")
	default:
		return err
	}
}

// tooLarge answers a read that asks for a revision which does not exist yet, in the words client-go looks for.
func tooLarge(asked, current int64) error {
	err := apierrors.NewTimeoutError(fmt.Sprintf("Too large resource version: %d, current: %d", asked, current), 1)
	err.ErrStatus.Details.Causes = []metav1.StatusCause{{
		Type: metav1.CauseTypeResourceVersionTooLarge, Message: "Too large resource version",
	}}
	return err
}

func badRevision(value string) error {
	return apierrors.NewBadRequest(fmt.Sprintf("invalid resource version %q: must be a non-negative integer", value))
}
