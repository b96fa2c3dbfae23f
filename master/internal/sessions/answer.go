package sessions

import (
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
)

// maxWords of an agent's answer that become a message.
const maxWords = 10 << 10

// writeStatus answers a request whose stream could not be made, once it is too late to return an error to the API server.
func writeStatus(w http.ResponseWriter, err *apierrors.StatusError) {
	err.ErrStatus.Kind, err.ErrStatus.APIVersion = "Status", "v1"
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(int(err.ErrStatus.Code))
	_ = json.NewEncoder(w).Encode(err.ErrStatus) // a client that has gone needs no answer
}

// statusOf makes a Status of the plain text with which an agent refuses a log, as Kubernetes' API server does
// (GenericHttpResponseChecker); nil if it does not refuse.
func statusOf(r *http.Response, pod string) error {
	if r.StatusCode == http.StatusSwitchingProtocols || r.StatusCode >= http.StatusOK && r.StatusCode <= http.StatusPartialContent {
		return nil
	}
	defer r.Body.Close()
	body, err := io.ReadAll(io.LimitReader(r.Body, maxWords))
	if err != nil {
		return err
	}
	text := strings.TrimSpace(string(body))
	switch r.StatusCode {
	case http.StatusInternalServerError:
		return apierrors.NewInternalError(errors.New(text))
	case http.StatusBadRequest:
		return apierrors.NewBadRequest(text)
	}
	return apierrors.NewGenericServerResponse(r.StatusCode, "", corev1.Resource("pods/log"), pod, text, 0, false)
}
