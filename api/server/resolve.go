package server

import (
	"net/http"
	"net/url"
	"strings"
)

// resolve finds the resource and verb that a path under /api and /apis means; false for documents and other paths.
func (s *Server) resolve(rq *request) (bool, error) {
	t, ok := parseTarget(rq.req.URL.Path)
	if !ok {
		return false, nil
	}
	rq.target = t
	if isReview(t) {
		rq.verb = "create"
		if rq.req.Method != http.MethodPost {
			return false, errMethod(rq.req.Method)
		}
		return true, nil
	}
	if t.gv.Group == "" && t.resource == "bindings" {
		return true, s.resolveBinding(rq)
	}
	if rq.res, ok = s.Table.Lookup(t.gv, t.resource); !ok {
		return false, errNotFoundPath()
	}
	if t.subresource != "" {
		if rq.sub, ok = rq.res.SubresourceIn(t.gv, t.subresource); !ok {
			return false, errNotFoundPath()
		}
		if t.rest != "" && t.subresource != "proxy" {
			return false, errNotFoundPath()
		}
	}
	if !rq.res.Namespaced && t.namespace != "" || rq.res.Namespaced && t.namespace == "" && t.name != "" {
		return false, errNotFoundPath()
	}
	if rq.verb = verbOf(rq); rq.verb == "" {
		return false, errMethod(rq.req.Method)
	}
	return true, nil
}

// verbOf is the verb as authorizers and metrics know it; "" when the method means nothing there.
func verbOf(rq *request) string {
	one := rq.name != ""
	if rq.isConnection() {
		switch rq.req.Method {
		case http.MethodGet, http.MethodHead, http.MethodOptions:
			switch rq.subresource {
			case "exec", "attach", "portforward":
				// A WebSocket begins with GET, but what it does is no reading: it needs the same right as a POST.
				return "create"
			}
			return "get"
		case http.MethodPost:
			return "create"
		case http.MethodPut:
			return "update"
		case http.MethodPatch:
			return "patch"
		case http.MethodDelete:
			return "delete"
		}
		return ""
	}
	if rq.watch {
		if rq.req.Method == http.MethodGet {
			return "watch"
		}
		return ""
	}
	switch rq.req.Method {
	case http.MethodGet, http.MethodHead:
		if one && !(rq.subresource == "" && isWatch(rq.query)) {
			return "get"
		}
		if isWatch(rq.query) {
			return "watch"
		}
		return "list"
	case http.MethodPost:
		if !one && (!rq.res.Namespaced || rq.namespace != "") || rq.subresource != "" {
			return "create"
		}
	case http.MethodPut:
		if one {
			return "update"
		}
	case http.MethodPatch:
		if one {
			return "patch"
		}
	case http.MethodDelete:
		switch {
		case rq.subresource != "":
		case one:
			return "delete"
		case !rq.res.Namespaced || rq.namespace != "":
			return "deletecollection"
		}
	}
	return ""
}

// isWatch reads ?watch=, of which any value but false and 0 means yes, as Kubernetes' parameter decoding has it.
func isWatch(q url.Values) bool {
	v, ok := q["watch"]
	if !ok || len(v) == 0 {
		return false
	}
	switch strings.ToLower(v[0]) {
	case "false", "0":
		return false
	}
	return true
}
