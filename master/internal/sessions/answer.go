package sessions

import (
	"encoding/json"
	"net/http"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
)

// writeStatus answers a request whose stream could not be made, once it is too late to return an error to the API server.
func writeStatus(w http.ResponseWriter, err *apierrors.StatusError) {
	err.ErrStatus.Kind, err.ErrStatus.APIVersion = "Status", "v1"
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(int(err.ErrStatus.Code))
	_ = json.NewEncoder(w).Encode(err.ErrStatus) // a client that has gone needs no answer
}
