package streams

import (
	"errors"
	"fmt"
	"net/http"

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

// NotRunning makes an Error about something that is known but does not run: the kubelet's streaming server answers 500.
func NotRunning(format string, args ...any) error {
	return &Error{http.StatusInternalServerError, fmt.Sprintf(format, args...)}
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
