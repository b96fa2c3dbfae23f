package sessions

import (
	"context"
	"fmt"
	"maps"
	"net/netip"
	"strings"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/whalepod/whalepod/master/internal/registry"
	agentv1 "github.com/whalepod/whalepod/proto/agent/v1"
)

func describedNode(name string, hello *agentv1.Hello) (*corev1.Node, error) {
	said := &corev1.Node{}
	if err := said.Unmarshal(hello.Node); err != nil {
		return nil, status.Errorf(codes.InvalidArgument, "node %s described itself in a form that cannot be read: %v", name, err)
	}
	if said.Name != name {
		return nil, status.Errorf(codes.PermissionDenied, "the certificate is of node %s, the description of node %q", name, said.Name)
	}
	return said, nil
}

// machine is what tells a node's machine from a copy of it (a cloned disk has the identity of the original).
type machine struct{ id, address string }

func machineOf(n *corev1.Node) machine {
	m := machine{id: n.Status.NodeInfo.MachineID}
	for _, a := range n.Status.Addresses {
		if a.Type == corev1.NodeInternalIP && m.address == "" {
			m.address = a.Address
		}
	}
	return m
}

// checkMachine refuses a second machine under a name whose first is connected and alive: they would end each other's
// sessions for ever. A machine that changed its address is such a second one until its former session has been silent for
// GoneAfter. It waits for that here: sent away, it would come back seconds too late. The first one is alive if it is heard of meanwhile.
func (s *Server) checkMachine(ctx context.Context, name string, m machine) error {
	for asked := time.Now(); ; {
		n, heard := s.session(name), s.Heard(name)
		left := time.Until(heard.Add(GoneAfter))
		if n == nil || n.machine == m || left <= 0 {
			return nil
		}
		if heard.After(asked) {
			return status.Errorf(codes.AlreadyExists,
				"another machine (%s) is connected as node %s: is this one a copy of it? Remove its identity with `wp-agent uninstall` and join under a name of its own", n.machine.address, name)
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-n.done:
		case <-time.After(min(left, HeartbeatEvery/4)):
		}
	}
}

// register makes or refreshes the Node of an agent and returns its part of the pod range.
func (s *Server) register(ctx context.Context, said *corev1.Node) (string, error) {
	name := said.Name
	var cidr string
	err := s.cfg.Registry.Transact(ctx, func(tx *registry.Tx) error {
		node, err := registry.Get[*corev1.Node](tx, "", name)
		if apierrors.IsNotFound(err) {
			node, err = registry.Create(tx, &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: maps.Clone(said.Labels), Annotations: maps.Clone(said.Annotations)}})
		}
		if err != nil {
			return err
		}
		node = node.DeepCopy()
		if node.Labels == nil {
			node.Labels = map[string]string{}
		}
		copyOwnLabels(node.Labels, said.Labels)
		for _, key := range ownAnnotations {
			if v, ok := said.Annotations[key]; ok {
				metav1.SetMetaDataAnnotation(&node.ObjectMeta, key, v)
			}
		}
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
	if !whole.Addr().Is4() || whole.Bits() > s.cfg.NodeMaskBits {
		return fmt.Errorf("the pod range %s has no room for the /%d (IPv4) of a node; start the master with a larger --pod-cidr", whole, s.cfg.NodeMaskBits)
	}
	taken := map[string]bool{}
	for n := range registry.List[*corev1.Node](tx, "") {
		taken[n.Spec.PodCIDR] = true
	}
	if p, err := netip.ParsePrefix(wish); err == nil && whole.Contains(p.Addr()) && p == p.Masked() && p.Bits() == s.cfg.NodeMaskBits && !taken[wish] {
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

const (
	// localVolumes is the annotation by which an agent says where it keeps local volumes; see the controller persistentvolume.
	localVolumes = "whalepod.io/local-volumes"
	// linkAnnotation is by which an agent tells the others of its link; see network.Place.
	linkAnnotation = "whalepod.io/link"
)

// Annotations that are the agent's to say.
var ownAnnotations = []string{localVolumes, linkAnnotation}

// Labels that are the machine's own to say at any time. Others it may bring when it joins; after that they are the admin's.
var ownLabels = []string{
	corev1.LabelHostname, corev1.LabelOSStable, corev1.LabelArchStable, "beta.kubernetes.io/os", "beta.kubernetes.io/arch",
}

func copyOwnLabels(into, said map[string]string) {
	for _, key := range ownLabels {
		if v, ok := said[key]; ok {
			into[key] = v
		}
	}
}

// mergeNodeStatus takes what an agent says of its node. Conditions of others (nodelife's NetworkUnavailable, say) stay, and so do
// extended resources, which people or device plugins tell of, and what an agent that has just started does not know yet.
func mergeNodeStatus(into, said *corev1.NodeStatus) {
	conditions := into.Conditions
	images, attached, engine := into.Images, into.VolumesAttached, into.NodeInfo.ContainerRuntimeVersion
	capacity, allocatable := into.Capacity, into.Allocatable
	said.DeepCopyInto(into)
	keepUnsaid(into.Capacity, capacity)
	keepUnsaid(into.Allocatable, allocatable)
	into.VolumesAttached = attached
	if said.NodeInfo.ContainerRuntimeVersion == "" {
		into.NodeInfo.ContainerRuntimeVersion = engine
	}
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

// keepUnsaid keeps extended resources, whose names have a domain, and the size of the engine's disk.
func keepUnsaid(into, before corev1.ResourceList) {
	for name, q := range before {
		if _, said := into[name]; !said && into != nil && (strings.Contains(string(name), "/") || name == corev1.ResourceEphemeralStorage) {
			into[name] = q
		}
	}
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
