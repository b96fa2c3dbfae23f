package registry

import (
	"fmt"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/whalepod/whalepod/api/server"
	"github.com/whalepod/whalepod/master/internal/satoken"
)

// TokenSigner signs service account tokens; satoken.Authority does.
type TokenSigner interface {
	Issuer() string
	Sign(satoken.Token) (string, error)
}

// Bounds of a token's life in seconds, and what it is when nothing is asked, as in Kubernetes.
const (
	minTokenSeconds     = 10 * 60
	maxTokenSeconds     = 1 << 32
	defaultTokenSeconds = 60 * 60
)

// Token makes a token of a service account by the rules of Kubernetes' serviceaccounts/token.
func (r *Registry) Token(namespace, name string, spec authenticationv1.TokenRequestSpec) (*authenticationv1.TokenRequest, error) {
	return r.actToken(namespace, name, &authenticationv1.TokenRequest{Spec: spec}, server.WriteOptions{})
}

func (r *Registry) actToken(namespace, name string, req *authenticationv1.TokenRequest, o server.WriteOptions) (*authenticationv1.TokenRequest, error) {
	if r.cfg.Signer == nil {
		return nil, apierrors.NewServiceUnavailable("this master has no key to sign service account tokens with")
	}
	out := req.DeepCopy()
	if out.Spec.ExpirationSeconds == nil {
		seconds := int64(defaultTokenSeconds)
		out.Spec.ExpirationSeconds = &seconds
	}
	if len(out.Spec.Audiences) == 0 {
		out.Spec.Audiences = []string{r.cfg.Signer.Issuer()}
	}
	if errs := validateTokenRequest(out); len(errs) > 0 {
		return nil, apierrors.NewInvalid(authenticationv1.SchemeGroupVersion.WithKind("TokenRequest").GroupKind(), "", errs)
	}
	now := time.Now()
	t := satoken.Token{Namespace: namespace, Audiences: out.Spec.Audiences, Issued: now,
		Expires: now.Add(time.Duration(*out.Spec.ExpirationSeconds) * time.Second)}
	if err := r.View(func(v *View) error {
		sa, err := Get[*corev1.ServiceAccount](v, namespace, name)
		if err != nil {
			return err
		}
		t.Account = satoken.Ref{Name: sa.Name, UID: sa.UID}
		return bindToken(v, &t, out.Spec.BoundObjectRef)
	}); err != nil {
		return nil, err
	}
	out.ObjectMeta = metav1.ObjectMeta{Name: name, Namespace: namespace, CreationTimestamp: metav1.Time{Time: now.Truncate(time.Second)}}
	out.Status = authenticationv1.TokenRequestStatus{ExpirationTimestamp: metav1.NewTime(t.Expires)}
	if o.DryRun {
		return out, nil
	}
	var err error
	out.Status.Token, err = r.cfg.Signer.Sign(t)
	return out, err
}

func validateTokenRequest(req *authenticationv1.TokenRequest) field.ErrorList {
	var errs field.ErrorList
	path := field.NewPath("spec").Child("expirationSeconds")
	if *req.Spec.ExpirationSeconds < minTokenSeconds {
		errs = append(errs, field.Invalid(path, *req.Spec.ExpirationSeconds, "may not specify a duration less than 10 minutes"))
	}
	if *req.Spec.ExpirationSeconds > maxTokenSeconds {
		errs = append(errs, field.TooLong(path, "", 32))
	}
	return errs
}

// bindToken notes the object that the token is to end with, and, of a pod, the node that it runs on.
func bindToken(v *View, t *satoken.Token, ref *authenticationv1.BoundObjectReference) error {
	if ref == nil {
		return nil
	}
	gvk := schema.FromAPIVersionAndKind(ref.APIVersion, ref.Kind)
	var found metav1.Object
	var err error
	switch {
	case gvk.Group == "" && gvk.Kind == "Pod":
		var pod *corev1.Pod
		if pod, err = Get[*corev1.Pod](v, t.Namespace, ref.Name); err == nil {
			found = pod
			t.Pod = &satoken.Ref{Name: pod.Name, UID: pod.UID}
			if pod.Spec.ServiceAccountName != t.Account.Name {
				return apierrors.NewBadRequest(fmt.Sprintf("cannot bind token for serviceaccount %q to pod running with different serviceaccount name.", t.Account.Name))
			}
			if node, err := Get[*corev1.Node](v, "", pod.Spec.NodeName); err == nil {
				t.Node = &satoken.Ref{Name: node.Name, UID: node.UID}
			}
		}
	case gvk.Group == "" && gvk.Kind == "Secret":
		var secret *corev1.Secret
		if secret, err = Get[*corev1.Secret](v, t.Namespace, ref.Name); err == nil {
			found, t.Secret = secret, &satoken.Ref{Name: secret.Name, UID: secret.UID}
		}
	case gvk.Group == "" && gvk.Kind == "Node":
		var node *corev1.Node
		if node, err = Get[*corev1.Node](v, "", ref.Name); err == nil {
			found, t.Node = node, &satoken.Ref{Name: node.Name, UID: node.UID}
		}
	default:
		return apierrors.NewBadRequest(fmt.Sprintf("cannot bind token for serviceaccount %q to object of type %s", t.Account.Name, gvk.String()))
	}
	if err != nil {
		return err
	}
	if ref.UID != "" && ref.UID != found.GetUID() {
		return apierrors.NewConflict(schema.GroupResource{Group: gvk.Group, Resource: gvk.Kind}, ref.Name, fmt.Errorf(
			"the UID in the bound object reference (%s) does not match the UID in record. The object might have been deleted and then recreated", ref.UID))
	}
	return nil
}

// deletedFor is how long a token outlives the beginning of the deletion of what it is bound to, as in Kubernetes.
const deletedFor = 60 * time.Second

// CheckToken says why a token that was good when it was signed is not any more: its account, or what it is bound to, is
// gone or another one of the same name.
func (r *Registry) CheckToken(t satoken.Token, now time.Time) error {
	return r.View(func(v *View) error {
		sa, err := Get[*corev1.ServiceAccount](v, t.Namespace, t.Account.Name)
		if err := still("service account", sa, err, t.Account.UID, now); err != nil {
			return err
		}
		if t.Pod != nil {
			pod, err := Get[*corev1.Pod](v, t.Namespace, t.Pod.Name)
			if err := still("pod", pod, err, t.Pod.UID, now); err != nil {
				return err
			}
		}
		if t.Secret != nil {
			secret, err := Get[*corev1.Secret](v, t.Namespace, t.Secret.Name)
			if err := still("secret", secret, err, t.Secret.UID, now); err != nil {
				return err
			}
		}
		if t.Node != nil && t.Pod == nil {
			node, err := Get[*corev1.Node](v, "", t.Node.Name)
			if err := still("node", node, err, t.Node.UID, now); err != nil {
				return err
			}
		}
		return nil
	})
}

func still(kind string, o metav1.Object, err error, uid types.UID, now time.Time) error {
	if err != nil {
		return fmt.Errorf("the token's %s: %w", kind, err)
	}
	if o.GetUID() != uid {
		return fmt.Errorf("the token's %s %q is another one now", kind, o.GetName())
	}
	if at := o.GetDeletionTimestamp(); at != nil && now.After(at.Add(deletedFor)) {
		return fmt.Errorf("the token's %s %q is being deleted", kind, o.GetName())
	}
	return nil
}
