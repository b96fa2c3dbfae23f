package server

import (
	"net/http"
	"slices"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// External is a group version that another server answers for.
type External struct {
	schema.GroupVersion
	// Resources as the other server told them last; Stale when it does not answer now.
	Resources []metav1.APIResource
	Stale     bool
}

// Aggregator passes requests on to other API servers.
type Aggregator interface {
	// External versions in the order of discovery. The stamp is equal (==) as long as the list is the same.
	External() (all []External, stamp any)
	// Pass has another server answer a request of a user who is allowed to make it.
	Pass(w http.ResponseWriter, req *http.Request, gv schema.GroupVersion, u User) error
}

func (s *Server) externals() ([]External, any) {
	if s.Aggregator == nil {
		return nil, nil
	}
	return s.Aggregator.External()
}

// external finds one version.
func (s *Server) external(gv schema.GroupVersion) (External, bool) {
	all, _ := s.externals()
	if i := slices.IndexFunc(all, func(e External) bool { return e.GroupVersion == gv }); i >= 0 {
		return all[i], true
	}
	return External{}, false
}

// isExternal says whether a path is another server's: /apis/GROUP/VERSION and all below it.
func (s *Server) isExternal(path string) (gv schema.GroupVersion, ok bool) {
	rest, ok := strings.CutPrefix(path, "/apis/")
	if !ok {
		return gv, false
	}
	if all, _ := s.externals(); len(all) == 0 {
		return gv, false
	}
	parts := strings.SplitN(rest, "/", 3)
	if len(parts) < 2 {
		return gv, false
	}
	gv = schema.GroupVersion{Group: parts[0], Version: parts[1]}
	_, ok = s.external(gv)
	return gv, ok
}

// serveExternal authorizes by what the path says, as it would be here, and passes the request on.
func (s *Server) serveExternal(rq *request, gv schema.GroupVersion) error {
	a := Attributes{Verb: strings.ToLower(rq.req.Method), Path: rq.req.URL.Path}
	if t, ok := parseTarget(rq.req.URL.Path); ok {
		rq.target = t
		if rq.verb = externalVerb(rq); rq.verb == "" {
			return errMethod(rq.req.Method)
		}
		a = rq.attributes()
	}
	release, err := s.admit(rq)
	if err != nil {
		return err
	}
	defer release()
	if err := s.authorize(rq.req.Context(), rq.user, a); err != nil {
		return err
	}
	if rq.longRunning() {
		defer s.metrics.long(rq)()
	}
	return s.Aggregator.Pass(rq.out, rq.req, gv, rq.user)
}

// externalVerb is the verb as authorizers know it, of a resource of which nothing is known but its path (k8s.io/apiserver's
// RequestInfo).
func externalVerb(rq *request) string {
	one := rq.name != ""
	switch rq.req.Method {
	case http.MethodGet, http.MethodHead, http.MethodOptions:
		switch {
		case rq.watch || !one && isWatch(rq.query):
			return "watch"
		case one:
			return "get"
		}
		return "list"
	case http.MethodPost:
		return "create"
	case http.MethodPut:
		return "update"
	case http.MethodPatch:
		return "patch"
	case http.MethodDelete:
		if one {
			return "delete"
		}
		return "deletecollection"
	}
	return ""
}
