package server

import (
	"context"
	"net/http"
	"slices"
	"strings"

	authenticationv1 "k8s.io/api/authentication/v1"
	authorizationv1 "k8s.io/api/authorization/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// Reviews are kinds that are asked, never kept: may I, who am I, whose token is this.

var (
	authzV1 = authorizationv1.SchemeGroupVersion
	authnV1 = authenticationv1.SchemeGroupVersion
	// reviewGroups are served besides those of the table.
	reviewGroups = []schema.GroupVersion{authnV1, authzV1}
)

// reviewKind is one such kind.
type reviewKind struct {
	gv             schema.GroupVersion
	name, singular string
	kind           string
	namespaced     bool
}

var reviewKinds = []reviewKind{
	{authzV1, "selfsubjectaccessreviews", "selfsubjectaccessreview", "SelfSubjectAccessReview", false},
	{authzV1, "selfsubjectrulesreviews", "selfsubjectrulesreview", "SelfSubjectRulesReview", false},
	{authzV1, "subjectaccessreviews", "subjectaccessreview", "SubjectAccessReview", false},
	{authzV1, "localsubjectaccessreviews", "localsubjectaccessreview", "LocalSubjectAccessReview", true},
	{authnV1, "selfsubjectreviews", "selfsubjectreview", "SelfSubjectReview", false},
	{authnV1, "tokenreviews", "tokenreview", "TokenReview", false},
}

func findReview(t target) (reviewKind, bool) {
	i := slices.IndexFunc(reviewKinds, func(k reviewKind) bool { return k.gv == t.gv && k.name == t.resource })
	if i < 0 || t.name != "" || reviewKinds[i].namespaced != (t.namespace != "") {
		return reviewKind{}, false
	}
	return reviewKinds[i], true
}

func isReview(t target) bool {
	_, ok := findReview(t)
	return ok
}

func reviewResources(gv schema.GroupVersion) []metav1.APIResource {
	var out []metav1.APIResource
	for _, k := range reviewKinds {
		if k.gv == gv {
			out = append(out, metav1.APIResource{Name: k.name, SingularName: k.singular, Namespaced: k.namespaced, Kind: k.kind, Verbs: metav1.Verbs{"create"}})
		}
	}
	return out
}

// review answers the question in the body by filling in its status.
func (s *Server) review(rq *request) error {
	// There are no columns, and metadata alone would be no answer: as in Kubernetes this is a 406.
	acc, err := mustNegotiate(rq.req, onlyPlain)
	if err != nil {
		return err
	}
	k, _ := findReview(rq.target)
	data, err := rq.body()
	if err != nil {
		return err
	}
	o, err := rq.createOptions()
	if err != nil {
		return err
	}
	obj, err := rq.decodeBody(data, k.gv.WithKind(k.kind), o.validation)
	if err != nil {
		return err
	}
	if err := s.answerReview(rq, obj); err != nil {
		return err
	}
	return s.writeObject(rq, acc, http.StatusCreated, obj)
}

func (s *Server) answerReview(rq *request, obj runtime.Object) error {
	ctx := rq.req.Context()
	switch r := obj.(type) {
	case *authenticationv1.SelfSubjectReview:
		r.Status.UserInfo = userInfo(rq.user)
	case *authenticationv1.TokenReview:
		s.reviewToken(rq, r)
	case *authorizationv1.SelfSubjectAccessReview:
		return s.reviewAccess(ctx, "SelfSubjectAccessReview", rq.user, r.Spec.ResourceAttributes, r.Spec.NonResourceAttributes, &r.Status)
	case *authorizationv1.SubjectAccessReview:
		if err := checkSubject("SubjectAccessReview", &r.Spec); err != nil {
			return err
		}
		return s.reviewAccess(ctx, "SubjectAccessReview", subject(&r.Spec), r.Spec.ResourceAttributes, r.Spec.NonResourceAttributes, &r.Status)
	case *authorizationv1.LocalSubjectAccessReview:
		if err := checkSubject("LocalSubjectAccessReview", &r.Spec); err != nil {
			return err
		}
		if a := r.Spec.NonResourceAttributes; a != nil {
			return invalidReview("LocalSubjectAccessReview", "nonResourceAttributes", a, "disallowed on this kind of request")
		}
		if a := r.Spec.ResourceAttributes; a != nil && a.Namespace != rq.namespace {
			return apierrors.NewBadRequest("spec.resourceAttributes.namespace must match namespace: " + rq.namespace)
		}
		return s.reviewAccess(ctx, "LocalSubjectAccessReview", subject(&r.Spec), r.Spec.ResourceAttributes, r.Spec.NonResourceAttributes, &r.Status)
	case *authorizationv1.SelfSubjectRulesReview:
		return s.reviewRules(ctx, rq.user, r)
	}
	return nil
}

func invalidReview(kind, fieldName string, value any, msg string) error {
	return apierrors.NewInvalid(schema.GroupKind{Group: authzV1.Group, Kind: kind}, "", field.ErrorList{field.Invalid(field.NewPath("spec", fieldName), value, msg)})
}

// checkSubject refuses a question about nobody.
func checkSubject(kind string, spec *authorizationv1.SubjectAccessReviewSpec) error {
	if spec.User == "" && len(spec.Groups) == 0 {
		return invalidReview(kind, "user", spec.User, "at least one of user or group must be specified")
	}
	return nil
}

func subject(spec *authorizationv1.SubjectAccessReviewSpec) User {
	u := User{Name: spec.User, UID: spec.UID, Groups: spec.Groups, Extra: map[string][]string{}}
	for key, v := range spec.Extra {
		u.Extra[key] = v
	}
	return u
}

func (s *Server) reviewAccess(ctx context.Context, kind string, u User, ra *authorizationv1.ResourceAttributes,
	nra *authorizationv1.NonResourceAttributes, st *authorizationv1.SubjectAccessReviewStatus) error {
	var a Attributes
	switch {
	case ra != nil && nra != nil:
		return invalidReview(kind, "nonResourceAttributes", nra, "cannot be specified in combination with resourceAttributes")
	case ra != nil:
		a = Attributes{Verb: ra.Verb, Group: ra.Group, Version: ra.Version, Resource: ra.Resource, Subresource: ra.Subresource, Namespace: ra.Namespace, Name: ra.Name}
	case nra != nil:
		a = Attributes{Verb: nra.Verb, Path: nra.Path}
	default:
		return invalidReview(kind, "resourceAttributes", ra, "exactly one of nonResourceAttributes or resourceAttributes must be specified")
	}
	st.Allowed, st.Reason = s.allowed(ctx, u, a)
	return nil
}

// reviewRules lists what a user may do.
func (s *Server) reviewRules(ctx context.Context, u User, r *authorizationv1.SelfSubjectRulesReview) error {
	if r.Spec.Namespace == "" {
		return apierrors.NewBadRequest("no namespace on request")
	}
	st := &r.Status
	st.ResourceRules, st.NonResourceRules = []authorizationv1.ResourceRule{}, []authorizationv1.NonResourceRule{}
	switch {
	case s.Rules != nil:
		resources, urls, err := s.Rules(ctx, u, r.Spec.Namespace)
		st.ResourceRules, st.NonResourceRules = append(st.ResourceRules, resources...), append(st.NonResourceRules, urls...)
		if err != nil {
			st.EvaluationError = err.Error()
		}
	case s.Authorize == nil || slices.Contains(u.Groups, groupMasters):
		st.ResourceRules = append(st.ResourceRules, authorizationv1.ResourceRule{Verbs: []string{"*"}, APIGroups: []string{"*"}, Resources: []string{"*"}})
		st.NonResourceRules = append(st.NonResourceRules, authorizationv1.NonResourceRule{Verbs: []string{"*"}, NonResourceURLs: []string{"*"}})
	default:
		st.Incomplete = true
		st.EvaluationError = "this server's authorizer does not list rules"
	}
	return nil
}

// reviewToken asks the authenticator as if the token had come with a request.
func (s *Server) reviewToken(rq *request, r *authenticationv1.TokenReview) {
	token := strings.TrimSpace(r.Spec.Token)
	if token == "" {
		return
	}
	req := (&http.Request{Method: http.MethodGet, URL: rq.req.URL, Header: http.Header{"Authorization": {"Bearer " + token}}}).WithContext(context.WithValue(rq.req.Context(), audiencesKey{}, r.Spec.Audiences))
	u, err := s.Auth.Authenticate(req)
	if err != nil {
		r.Status.Error = "[invalid bearer token, " + err.Error() + "]"
		return
	}
	r.Status.Authenticated, r.Status.User, r.Status.Audiences = true, userInfo(u), u.Audiences
}

type audiencesKey struct{}

// Audiences that a token must be for, at least one of them; none when it is to be for this API, as always but in a
// TokenReview that names some.
func Audiences(ctx context.Context) []string {
	a, _ := ctx.Value(audiencesKey{}).([]string)
	return a
}

func userInfo(u User) authenticationv1.UserInfo {
	info := authenticationv1.UserInfo{Username: u.Name, UID: u.UID, Groups: u.Groups}
	for key, v := range u.Extra {
		if info.Extra == nil {
			info.Extra = map[string]authenticationv1.ExtraValue{}
		}
		info.Extra[key] = v
	}
	return info
}
