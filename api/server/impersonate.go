package server

import (
	"net/http"
	"net/url"
	"slices"
	"strings"

	authenticationv1 "k8s.io/api/authentication/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
)

// impersonate makes the request that of the user whom its headers name (`kubectl --as`), if the real one may act for
// them. Dropping the headers instead would do things with rights that were meant to be put aside.
func (s *Server) impersonate(rq *request) error {
	h := rq.req.Header
	name, groups := h.Get(authenticationv1.ImpersonateUserHeader), h.Values(authenticationv1.ImpersonateGroupHeader)
	uid, extra := h.Get(authenticationv1.ImpersonateUIDHeader), impersonatedExtra(h)
	if name == "" {
		if len(groups) > 0 || uid != "" || len(extra) > 0 {
			return apierrors.NewBadRequest("requested impersonation of groups, a UID or extra fields without impersonating a user")
		}
		return nil
	}
	wants := []Attributes{{Verb: "impersonate", Version: "v1", Resource: "users", Name: name}}
	u := User{Name: name, UID: uid, Groups: slices.Clone(groups), Extra: extra}
	if ns, sa, ok := serviceAccount(name); ok {
		wants[0].Resource, wants[0].Namespace, wants[0].Name = "serviceaccounts", ns, sa
		if len(groups) == 0 {
			u.Groups = []string{"system:serviceaccounts", "system:serviceaccounts:" + ns}
		}
	}
	for _, g := range groups {
		wants = append(wants, Attributes{Verb: "impersonate", Version: "v1", Resource: "groups", Name: g})
	}
	if uid != "" {
		wants = append(wants, Attributes{Verb: "impersonate", Group: authnV1.Group, Version: "v1", Resource: "uids", Name: uid})
	}
	for key, values := range extra {
		for _, v := range values {
			wants = append(wants, Attributes{Verb: "impersonate", Group: authnV1.Group, Version: "v1", Resource: "userextras", Subresource: key, Name: v})
		}
	}
	for _, a := range wants {
		if err := s.authorize(rq.req.Context(), rq.user, a); err != nil {
			return err
		}
	}
	const anonymous, strangers = "system:anonymous", "system:unauthenticated"
	switch {
	case slices.Contains(u.Groups, strangers):
	case name == anonymous:
		u.Groups = append(u.Groups, strangers)
	case !slices.Contains(u.Groups, groupAuthenticated):
		u.Groups = append(u.Groups, groupAuthenticated)
	}
	s.log.Debug("impersonation", "user", rq.user.Name, "as", name)
	rq.user = u
	// What comes after, a connection for instance, sees the user in the options and must not see the headers.
	for key := range h {
		if strings.HasPrefix(key, "Impersonate-") {
			h.Del(key)
		}
	}
	return nil
}

func impersonatedExtra(h http.Header) map[string][]string {
	var out map[string][]string
	for key, values := range h {
		rest, ok := strings.CutPrefix(key, authenticationv1.ImpersonateUserExtraHeaderPrefix)
		if !ok {
			continue
		}
		rest = strings.ToLower(rest)
		if plain, err := url.PathUnescape(rest); err == nil {
			rest = plain
		}
		if out == nil {
			out = map[string][]string{}
		}
		out[rest] = append(out[rest], values...)
	}
	return out
}

// serviceAccount splits system:serviceaccount:NAMESPACE:NAME.
func serviceAccount(user string) (ns, name string, ok bool) {
	rest, ok := strings.CutPrefix(user, "system:serviceaccount:")
	if !ok {
		return "", "", false
	}
	ns, name, ok = strings.Cut(rest, ":")
	return ns, name, ok && ns != "" && name != ""
}
