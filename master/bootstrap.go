package master

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/whalepod/whalepod/master/internal/controller"
	"github.com/whalepod/whalepod/master/internal/controllers/endpoints"
	"github.com/whalepod/whalepod/master/internal/controllers/persistentvolume"
	"github.com/whalepod/whalepod/master/internal/rbac"
	"github.com/whalepod/whalepod/master/internal/registry"
)

const (
	dnsPort   = 53
	httpsPort = 443
	apiName   = "kubernetes"
	dnsName   = "kube-dns"
)

// defaultNamespaces are those that every cluster has.
var defaultNamespaces = []string{
	metav1.NamespaceDefault, metav1.NamespaceSystem, metav1.NamespacePublic, corev1.NamespaceNodeLease,
}

// ownKeys are the objects that bootstrap makes.
func ownKeys() map[registry.Key]bool {
	keys := map[registry.Key]bool{
		{Resource: "services", Namespace: metav1.NamespaceSystem, Name: dnsName}:                true,
		{Resource: "configmaps", Namespace: metav1.NamespaceSystem, Name: authenticationConfig}: true,
		{Resource: "servicecidrs.networking.k8s.io", Name: apiName}:                             true,
	}
	for _, ns := range defaultNamespaces {
		keys[registry.Key{Resource: "namespaces", Name: ns}] = true
	}
	for _, class := range registry.SystemPriorityClasses() {
		keys[registry.Key{Resource: "priorityclasses.scheduling.k8s.io", Name: class.Name}] = true
	}
	for _, res := range []string{"services", "endpoints", "endpointslices.discovery.k8s.io"} {
		keys[registry.Key{Resource: res, Namespace: metav1.NamespaceDefault, Name: apiName}] = true
	}
	return keys
}

// bootstrap makes the objects that every cluster has: its namespaces, the two system priority classes, the Service by which
// pods reach the API with its endpoints, and the Service that stands for the DNS servers of the nodes. What somebody deletes by mistake comes back. The
// default roles are completed once, at the start, as Kubernetes does.
func (m *Master) bootstrap(ctx context.Context) error {
	own, whole := ownKeys(), registry.Key{Resource: "#bootstrap"}
	addr := netip.AddrPortFrom(m.cfg.Advertise, uint16(m.cfg.APIPort))
	done := sync.OnceFunc(func() { close(m.bootstrapped) })
	return controller.New(controller.Config{
		Name: "bootstrap", Registry: m.registry, Logger: m.cfg.Logger,
		Watch: []string{"configmaps", "namespaces", "services", "endpoints", "endpointslices.discovery.k8s.io", "priorityclasses.scheduling.k8s.io", "servicecidrs.networking.k8s.io"},
		Keys: func(_ *registry.View, e registry.Event, add func(controller.Key)) {
			if e.Deleted && own[e.Key] {
				add(whole)
			}
		},
		All: func(_ *registry.View, add func(controller.Key)) { add(whole) },
		Reconcile: func(ctx context.Context, _ controller.Key) (time.Duration, error) {
			if err := m.registry.Transact(ctx, m.createDefaults); err != nil {
				return 0, err
			}
			if err := endpoints.PublishAPIServer(ctx, m.registry, []netip.AddrPort{addr}); err != nil {
				return 0, err
			}
			done()
			return 0, nil
		},
	}).Run(ctx)
}

// checkBootstrapped is part of /readyz: before, not even the namespace "default" may be there.
func (m *Master) checkBootstrapped() error {
	select {
	case <-m.bootstrapped:
		return nil
	default:
		return errors.New("the cluster's own objects are not made yet")
	}
}

func (m *Master) createDefaults(tx *registry.Tx) error {
	for _, name := range defaultNamespaces {
		if err := ensure(tx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name}}); err != nil {
			return err
		}
	}
	for _, class := range registry.SystemPriorityClasses() {
		if err := ensure(tx, class); err != nil {
			return err
		}
	}
	if err := ensure(tx, persistentvolume.DefaultClass()); err != nil {
		return err
	}
	if err := m.publishAuthentication(tx); err != nil {
		return err
	}
	if err := m.ensureServiceCIDR(tx); err != nil {
		return err
	}
	if err := ensure(tx, m.apiService()); err != nil {
		return err
	}
	if err := ensure(tx, m.dnsService()); err != nil {
		return err
	}
	if m.checkBootstrapped() == nil {
		return nil
	}
	return rbac.EnsureDefaults(tx)
}

// ensure creates an object unless one of its name is there: what an admin changed stays changed.
func ensure[T registry.Object](tx *registry.Tx, obj T) error {
	_, err := registry.Get[T](tx, obj.GetNamespace(), obj.GetName())
	if !apierrors.IsNotFound(err) {
		return err
	}
	if _, err = registry.Create(tx, obj); err != nil {
		return fmt.Errorf("%s: %w", obj.GetName(), err)
	}
	return nil
}

// ensureServiceCIDR tells of the range of Service addresses in Kubernetes' words; nobody else makes a ServiceCIDR ready.
func (m *Master) ensureServiceCIDR(tx *registry.Tx) error {
	err := ensure(tx, &networkingv1.ServiceCIDR{
		ObjectMeta: metav1.ObjectMeta{Name: apiName},
		Spec:       networkingv1.ServiceCIDRSpec{CIDRs: []string{m.cfg.ServiceCIDR.Masked().String()}},
	})
	if err != nil {
		return err
	}
	have, err := registry.Get[*networkingv1.ServiceCIDR](tx, "", apiName)
	if err != nil || meta.IsStatusConditionTrue(have.Status.Conditions, networkingv1.ServiceCIDRConditionReady) {
		return err
	}
	ready := have.DeepCopy()
	meta.SetStatusCondition(&ready.Status.Conditions, metav1.Condition{
		Type: networkingv1.ServiceCIDRConditionReady, Status: metav1.ConditionTrue, Message: "Kubernetes default Service CIDR is ready",
	})
	_, err = registry.PutStatus(tx, ready)
	return err
}

func (m *Master) apiService() *corev1.Service {
	ip := m.cfg.ServiceCIDR.Masked().Addr().Next().String()
	return &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: metav1.NamespaceDefault, Name: apiName,
			Labels: map[string]string{"component": "apiserver", "provider": "kubernetes"},
		},
		Spec: corev1.ServiceSpec{
			Type: corev1.ServiceTypeClusterIP, ClusterIP: ip, ClusterIPs: []string{ip},
			SessionAffinity: corev1.ServiceAffinityNone,
			Ports: []corev1.ServicePort{{
				Name: "https", Protocol: corev1.ProtocolTCP, Port: httpsPort, TargetPort: intstr.FromInt32(int32(m.cfg.APIPort)),
			}},
		},
	}
}

// dnsService has no selector and no endpoints: each node answers at this address itself.
func (m *Master) dnsService() *corev1.Service {
	ip := m.cfg.DNSIP.String()
	return &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: metav1.NamespaceSystem, Name: dnsName,
			Labels: map[string]string{"k8s-app": "kube-dns", "kubernetes.io/name": "CoreDNS", "kubernetes.io/cluster-service": "true"},
		},
		Spec: corev1.ServiceSpec{
			Type: corev1.ServiceTypeClusterIP, ClusterIP: ip, ClusterIPs: []string{ip},
			Ports: []corev1.ServicePort{
				{Name: "dns", Protocol: corev1.ProtocolUDP, Port: dnsPort, TargetPort: intstr.FromInt32(dnsPort)},
				{Name: "dns-tcp", Protocol: corev1.ProtocolTCP, Port: dnsPort, TargetPort: intstr.FromInt32(dnsPort)},
			},
		},
	}
}
