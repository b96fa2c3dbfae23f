package sessions

import (
	"context"
	"fmt"
	"maps"
	"net/netip"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"github.com/whalepod/whalepod/master/internal/registry"
	agentv1 "github.com/whalepod/whalepod/proto/agent/v1"
)

// register makes or refreshes the Node of an agent and returns its part of the pod range.
func (s *Server) register(ctx context.Context, name string, hello *agentv1.Hello) (string, error) {
	said := &corev1.Node{}
	if err := said.Unmarshal(hello.Node); err != nil {
		return "", status.Errorf(codes.InvalidArgument, "node %s described itself in a form that cannot be read: %v", name, err)
	}
	if said.Name != name {
		return "", status.Errorf(codes.PermissionDenied, "the certificate is of node %s, the description of node %q", name, said.Name)
	}
	var cidr string
	err := s.cfg.Registry.Transact(ctx, func(tx *registry.Tx) error {
		node, err := registry.Get[*corev1.Node](tx, "", name)
		if apierrors.IsNotFound(err) {
			node, err = registry.Create(tx, &corev1.Node{ObjectMeta: *said.ObjectMeta.DeepCopy()})
		}
		if err != nil {
			return err
		}
		node = node.DeepCopy()
		if node.Labels == nil {
			node.Labels = map[string]string{}
		}
		maps.Copy(node.Labels, said.Labels)
		if node.Spec.PodCIDR == "" {
			if err := s.assignPodCIDR(tx, node, said.Spec.PodCIDR); err != nil {
				return err
			}
		}
		cidr = node.Spec.PodCIDR
		node, err = registry.Put(tx, node)
		if err != nil {
			return err
		}
		node = node.DeepCopy()
		mergeNodeStatus(&node.Status, &said.Status)
		_, err = registry.PutStatus(tx, node)
		return err
	})
	if err != nil {
		return "", status.Errorf(codes.Unavailable, "node %s not registered: %v", name, err)
	}
	return cidr, nil
}

// assignPodCIDR gives a new node the part of the pod range that it had before, when its Node was deleted and the part is
// still free, or else the first free one.
func (s *Server) assignPodCIDR(tx *registry.Tx, node *corev1.Node, wish string) error {
	whole, err := netip.ParsePrefix(s.cfg.Cluster.PodCidr)
	if err != nil {
		return err
	}
	taken := map[string]bool{}
	for n := range registry.List[*corev1.Node](tx, "") {
		taken[n.Spec.PodCIDR] = true
	}
	if p, err := netip.ParsePrefix(wish); err == nil && whole.Contains(p.Addr()) && p.Bits() == s.cfg.NodeMaskBits && !taken[wish] {
		node.Spec.PodCIDR, node.Spec.PodCIDRs = wish, []string{wish}
		return nil
	}
	size := uint32(1) << (32 - s.cfg.NodeMaskBits)
	base := whole.Masked().Addr().As4()
	start := uint32(base[0])<<24 | uint32(base[1])<<16 | uint32(base[2])<<8 | uint32(base[3])
	for i := uint32(0); i < uint32(1)<<(s.cfg.NodeMaskBits-whole.Bits()); i++ {
		v := start + i*size
		p := netip.PrefixFrom(netip.AddrFrom4([4]byte{byte(v >> 24), byte(v >> 16), byte(v >> 8), byte(v)}), s.cfg.NodeMaskBits).String()
		if !taken[p] {
			node.Spec.PodCIDR, node.Spec.PodCIDRs = p, []string{p}
			return nil
		}
	}
	return fmt.Errorf("the pod range %s has no free /%d for another node; start the master with a larger --pod-cidr", whole, s.cfg.NodeMaskBits)
}

// mergeNodeStatus takes what an agent says of its node. Conditions of others (nodelife's NetworkUnavailable, say) stay.
func mergeNodeStatus(into, said *corev1.NodeStatus) {
	conditions := into.Conditions
	images, attached := into.Images, into.VolumesAttached
	said.DeepCopyInto(into)
	into.VolumesAttached = attached
	if said.Images == nil {
		into.Images = images
	}
	for _, c := range conditions {
		known := false
		for _, d := range said.Conditions {
			known = known || d.Type == c.Type
		}
		if !known {
			into.Conditions = append(into.Conditions, c)
		}
	}
	keepTransitionTimes(into.Conditions, conditions)
}

// keepTransitionTimes: an agent that restarts knows not since when a condition holds; the Node does.
func keepTransitionTimes(now, before []corev1.NodeCondition) {
	for i := range now {
		for _, b := range before {
			if b.Type == now[i].Type && b.Status == now[i].Status {
				now[i].LastTransitionTime = b.LastTransitionTime
			}
		}
	}
}
