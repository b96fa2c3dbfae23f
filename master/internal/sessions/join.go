package sessions

import (
	"context"
	"crypto/subtle"
	"fmt"
	"strings"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation"

	"github.com/whalepod/whalepod/master/internal/registry"
	agentv1 "github.com/whalepod/whalepod/proto/agent/v1"
)

// Bootstrap tokens are Secrets as kubeadm writes them: kube-system/bootstrap-token-ID, of this type.
const (
	tokenSecretPrefix = "bootstrap-token-"
	tokenSecretType   = "bootstrap.kubernetes.io/token"
)

// CheckToken says why a join token, ID.SECRET, is not good, or nil.
func CheckToken(r *registry.Registry, token string, now time.Time) error {
	id, secret, ok := strings.Cut(token, ".")
	if !ok || len(id) != 6 || len(secret) != 16 {
		return fmt.Errorf("the join token is malformed: it looks like abcdef.0123456789abcdef; make one with `wpctl token create`")
	}
	return r.View(func(v *registry.View) error {
		s, err := registry.Get[*corev1.Secret](v, metav1.NamespaceSystem, tokenSecretPrefix+id)
		if err != nil || string(s.Type) != tokenSecretType ||
			subtle.ConstantTimeCompare(s.Data["token-secret"], []byte(secret)) != 1 {
			return fmt.Errorf("the join token %s.… is not known: it was mistyped or deleted; make one with `wpctl token create`", id)
		}
		if at, ok := s.Data["expiration"]; ok {
			expires, err := time.Parse(time.RFC3339, string(at))
			if err != nil || now.After(expires) {
				return fmt.Errorf("the join token %s.… expired at %s; make a new one with `wpctl token create`", id, at)
			}
		}
		if string(s.Data["usage-bootstrap-authentication"]) != "true" {
			return fmt.Errorf("the token %s.… is not for joining (usage-bootstrap-authentication is not set)", id)
		}
		return nil
	})
}

// Join implements agentv1.AgentServer.
func (s *Server) Join(_ context.Context, req *agentv1.JoinRequest) (*agentv1.JoinResponse, error) {
	if errs := validation.IsDNS1123Subdomain(req.NodeName); len(errs) > 0 {
		return nil, status.Errorf(codes.InvalidArgument, "node name %q: %s; give another with --node-name", req.NodeName, strings.Join(errs, "; "))
	}
	if err := CheckToken(s.cfg.Registry, req.Token, time.Now()); err != nil {
		s.log.Warn("join refused", "node", req.NodeName, "err", err)
		return nil, status.Error(codes.PermissionDenied, err.Error())
	}
	if s.Alive()[req.NodeName] {
		return nil, status.Errorf(codes.AlreadyExists, "a node named %s is in the cluster and alive; give this machine another name with --node-name", req.NodeName)
	}
	cert, err := s.cfg.PKI.SignNode(req.NodeName, req.Csr)
	if err != nil {
		return nil, status.Error(codes.InvalidArgument, err.Error())
	}
	s.log.Info("node joined", "node", req.NodeName)
	return &agentv1.JoinResponse{Certificate: cert, Ca: s.cfg.PKI.CA(), Config: s.cfg.Cluster}, nil
}

// Renew implements agentv1.AgentServer.
func (s *Server) Renew(ctx context.Context, req *agentv1.RenewRequest) (*agentv1.RenewResponse, error) {
	node, err := nodeName(ctx)
	if err != nil {
		return nil, err
	}
	cert, err := s.cfg.PKI.SignNode(node, req.Csr)
	if err != nil {
		return nil, status.Error(codes.InvalidArgument, err.Error())
	}
	return &agentv1.RenewResponse{Certificate: cert, Ca: s.cfg.PKI.CA()}, nil
}
