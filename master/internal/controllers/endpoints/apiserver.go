package endpoints

import (
	"context"
	"net/netip"
	"slices"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/whalepod/whalepod/master/internal/registry"
)

// PublishAPIServer makes Endpoints and an EndpointSlice of Service default/kubernetes say where the API is served. The
// Service has no selector; these two are its master's own and are not mirrored.
func PublishAPIServer(ctx context.Context, r *registry.Registry, addresses []netip.AddrPort) error {
	const namespace, name, portName = metav1.NamespaceDefault, "kubernetes", "https"
	tcp, ready, port := corev1.ProtocolTCP, true, portName
	addresses = slices.Clone(addresses)
	slices.SortFunc(addresses, netip.AddrPort.Compare)
	var subset corev1.EndpointSubset
	var number int32
	slice := &discoveryv1.EndpointSlice{
		ObjectMeta:  metav1.ObjectMeta{Namespace: namespace, Name: name, Labels: map[string]string{discoveryv1.LabelServiceName: name}},
		AddressType: discoveryv1.AddressTypeIPv4,
	}
	for _, a := range addresses {
		number = int32(a.Port()) // all masters serve on the same port
		subset.Addresses = append(subset.Addresses, corev1.EndpointAddress{IP: a.Addr().String()})
		slice.Endpoints = append(slice.Endpoints, discoveryv1.Endpoint{
			Addresses: []string{a.Addr().String()}, Conditions: discoveryv1.EndpointConditions{Ready: &ready},
		})
	}
	endpoints := &corev1.Endpoints{ObjectMeta: metav1.ObjectMeta{
		Namespace: namespace, Name: name, Labels: map[string]string{discoveryv1.LabelSkipMirror: "true"},
	}}
	if len(addresses) > 0 {
		subset.Ports = []corev1.EndpointPort{{Name: portName, Port: number, Protocol: tcp}}
		endpoints.Subsets = []corev1.EndpointSubset{subset}
		slice.Ports = []discoveryv1.EndpointPort{{Name: &port, Port: &number, Protocol: &tcp}}
	}
	return r.Transact(ctx, func(tx *registry.Tx) error {
		if err := ensure(tx, endpoints.DeepCopy(), func(old *corev1.Endpoints) bool {
			return apiequality.Semantic.DeepEqual(old.Subsets, endpoints.Subsets) && old.Labels[discoveryv1.LabelSkipMirror] == "true"
		}); err != nil {
			return err
		}
		return ensure(tx, slice.DeepCopy(), func(old *discoveryv1.EndpointSlice) bool {
			return apiequality.Semantic.DeepEqual(old.Endpoints, slice.Endpoints) && apiequality.Semantic.DeepEqual(old.Ports, slice.Ports)
		})
	})
}

// ensure creates an object, or replaces one that differs.
func ensure[T registry.Object](tx *registry.Tx, want T, same func(old T) bool) error {
	old, err := registry.Get[T](tx, want.GetNamespace(), want.GetName())
	switch {
	case apierrors.IsNotFound(err):
		_, err = registry.Create(tx, want)
		return err
	case err != nil || same(old):
		return err
	}
	want.SetUID(old.GetUID())
	want.SetResourceVersion(old.GetResourceVersion())
	_, err = registry.Put(tx, want)
	return err
}
