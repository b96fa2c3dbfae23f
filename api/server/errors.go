package server

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// statusOf turns any error into a Status; unknown ones are internal errors, known says which.
func statusOf(err error) (status *metav1.Status, known bool) {
	var api apierrors.APIStatus
	switch {
	case errors.As(err, &api):
		st := api.Status()
		st.Kind, st.APIVersion = "Status", "v1"
		if st.Status == "" {
			st.Status = metav1.StatusFailure
		}
		if st.Code == 0 {
			st.Code = http.StatusInternalServerError
		}
		return &st, true
	case errors.Is(err, context.DeadlineExceeded):
		st, _ := statusOf(apierrors.NewTimeoutError("request did not complete within the allotted timeout", 0))
		return st, true
	case errors.Is(err, context.Canceled):
		// The client is gone; whoever reads this is a log.
		return &metav1.Status{TypeMeta: metav1.TypeMeta{Kind: "Status", APIVersion: "v1"}, Status: metav1.StatusFailure,
			Code: 499, Reason: metav1.StatusReasonUnknown, Message: "the client closed the request"}, true
	}
	st, _ := statusOf(apierrors.NewInternalError(err))
	return st, false
}

// writeError is the one place where an error becomes an answer.
func (s *Server) writeError(rq *request, err error) {
	st, known := statusOf(err)
	if !known {
		s.log.Error("request failed", "method", rq.req.Method, "path", rq.req.URL.Path, "err", err)
	}
	if rq.out.began {
		s.log.Debug("answer cut short", "path", rq.req.URL.Path, "err", err)
		// An answer that has begun cannot become an error: cutting the connection is what tells the client.
		panic(http.ErrAbortHandler)
	}
	h := rq.out.Header()
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Cache-Control", "no-cache, private")
	if st.Details != nil && st.Details.RetryAfterSeconds > 0 && h.Get("Retry-After") == "" {
		h.Set("Retry-After", strconv.Itoa(int(st.Details.RetryAfterSeconds)))
	}
	acc, ok := negotiate(rq.req, onlyPlain)
	if !ok {
		acc = accept{}
	}
	if err := s.writeObject(rq, acc, int(st.Code), st); err != nil {
		s.log.Debug("error not written", "err", err)
	}
}

func errNotFoundPath() error {
	return &apierrors.StatusError{ErrStatus: metav1.Status{Status: metav1.StatusFailure, Code: http.StatusNotFound,
		Reason: metav1.StatusReasonNotFound, Message: "the server could not find the requested resource", Details: &metav1.StatusDetails{}}}
}

func errMethod(method string) error {
	return &apierrors.StatusError{ErrStatus: metav1.Status{Status: metav1.StatusFailure, Code: http.StatusMethodNotAllowed,
		Reason: metav1.StatusReasonMethodNotAllowed, Message: "the server does not allow this method on the requested resource", Details: &metav1.StatusDetails{}}}
}

func errUnauthorized() error { return apierrors.NewUnauthorized("Unauthorized") }

func errTooMany() error {
	return apierrors.NewTooManyRequests("Too many requests, please try again later.", 1)
}

func errTooLarge() error {
	return apierrors.NewRequestEntityTooLargeError(fmt.Sprintf("limit is %d", maxBody))
}

func errMedia(code int, reason metav1.StatusReason, format string, args ...any) error {
	return &apierrors.StatusError{ErrStatus: metav1.Status{Status: metav1.StatusFailure, Code: int32(code), Reason: reason, Message: fmt.Sprintf(format, args...)}}
}

func errNotAcceptable(accepted ...string) error {
	return errMedia(http.StatusNotAcceptable, metav1.StatusReasonNotAcceptable, "only the following media types are accepted: %s", strings.Join(accepted, ", "))
}

func errUnsupportedMedia(accepted ...string) error {
	return errMedia(http.StatusUnsupportedMediaType, metav1.StatusReasonUnsupportedMediaType,
		"the body of the request was in an unknown format - accepted media types include: %s", strings.Join(accepted, ", "))
}

func errUnprocessable(msg string) error {
	return apierrors.NewGenericServerResponse(http.StatusUnprocessableEntity, "", schema.GroupResource{}, "", msg, 0, false)
}
