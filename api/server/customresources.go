package server

import (
	"net/http"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// isCustomResourceList says whether a request is for the list of CustomResourceDefinitions. There are none here and none can
// be made, but kubectl asks for them before it says what is wrong with a kind that it does not find in the OpenAPI document
// (k8s.io/cli-runtime/pkg/resource/query_param_verifier_v3.go). Without an answer, "kind: Sevrice" gets "failed to check
// CRD" instead of `no matches for kind "Sevrice" in version "v1"`.
func isCustomResourceList(rq *request) bool {
	t := rq.target
	return rq.req.Method == http.MethodGet && !t.watch && !isWatch(rq.query) && t.gv.Group == "apiextensions.k8s.io" && t.gv.Version == "v1" &&
		t.resource == "customresourcedefinitions" && t.name == "" && t.namespace == ""
}

// noCustomResources is the empty list.
func (s *Server) noCustomResources(rq *request) error {
	s.writeJSON(rq, struct {
		metav1.TypeMeta `json:",inline"`
		metav1.ListMeta `json:"metadata"`
		Items           []struct{} `json:"items"`
	}{
		TypeMeta: metav1.TypeMeta{APIVersion: "apiextensions.k8s.io/v1", Kind: "CustomResourceDefinitionList"},
		Items:    []struct{}{},
	})
	return nil
}
