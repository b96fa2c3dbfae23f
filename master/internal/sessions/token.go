package sessions

import (
	"context"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"

	"github.com/whalepod/whalepod/master/internal/registry"
	agentv1 "github.com/whalepod/whalepod/proto/agent/v1"
)

// Token implements agentv1.AgentServer: a node gets tokens of the accounts of its own pods, and no others.
func (s *Server) Token(ctx context.Context, req *agentv1.TokenRequest) (*agentv1.TokenResponse, error) {
	node, err := nodeName(ctx)
	if err != nil {
		return nil, err
	}
	account, err := s.accountOf(node, req)
	if err != nil {
		return nil, err
	}
	answer, err := s.cfg.Registry.Token(req.Namespace, account, authenticationv1.TokenRequestSpec{
		Audiences: req.Audiences, ExpirationSeconds: &req.ExpirationSeconds,
		BoundObjectRef: &authenticationv1.BoundObjectReference{APIVersion: "v1", Kind: "Pod", Name: req.PodName, UID: types.UID(req.PodUid)},
	})
	if err != nil {
		return nil, status.Error(codes.FailedPrecondition, err.Error())
	}
	return &agentv1.TokenResponse{Token: answer.Status.Token, ExpiresUnix: answer.Status.ExpirationTimestamp.Unix()}, nil
}

func (s *Server) accountOf(node string, req *agentv1.TokenRequest) (account string, err error) {
	err = s.cfg.Registry.View(func(v *registry.View) error {
		pod, err := registry.Get[*corev1.Pod](v, req.Namespace, req.PodName)
		if apierrors.IsNotFound(err) || err == nil && string(pod.UID) != req.PodUid {
			return status.Errorf(codes.NotFound, "pod %s/%s with uid %s is not there any more", req.Namespace, req.PodName, req.PodUid)
		}
		if err != nil {
			return err
		}
		if pod.Spec.NodeName != node {
			return status.Errorf(codes.PermissionDenied, "pod %s/%s is not bound to node %s", req.Namespace, req.PodName, node)
		}
		account = pod.Spec.ServiceAccountName
		return nil
	})
	return account, err
}
