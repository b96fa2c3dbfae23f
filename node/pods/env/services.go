package env

import (
	"fmt"
	"net"
	"slices"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// serviceVariables are those of `kubernetes` always, and of all services of the pod's namespace unless
// enableServiceLinks is false. The names are documented under "Discovering services" in Kubernetes' documentation, and
// are those of Docker's old container links.
func serviceVariables(pod *corev1.Pod, src Source) *vars {
	links := pod.Spec.EnableServiceLinks == nil || *pod.Spec.EnableServiceLinks
	chosen := map[string]*corev1.Service{}
	for _, s := range src.Services() {
		if s.Spec.ClusterIP == "" || s.Spec.ClusterIP == corev1.ClusterIPNone || len(s.Spec.Ports) == 0 {
			continue
		}
		switch {
		case s.Namespace == metav1.NamespaceDefault && s.Name == "kubernetes":
			if _, ok := chosen[s.Name]; !ok {
				chosen[s.Name] = s
			}
		case links && s.Namespace == pod.Namespace:
			chosen[s.Name] = s
		}
	}
	names := make([]string, 0, len(chosen))
	for name := range chosen {
		names = append(names, name)
	}
	slices.Sort(names)
	out := newVars()
	for _, name := range names {
		addService(out, chosen[name])
	}
	return out
}

func addService(out *vars, s *corev1.Service) {
	prefix, ip := upper(s.Name), s.Spec.ClusterIP
	out.set(prefix+"_SERVICE_HOST", ip)
	out.set(prefix+"_SERVICE_PORT", strconv.Itoa(int(s.Spec.Ports[0].Port)))
	for _, p := range s.Spec.Ports {
		if p.Name != "" {
			out.set(prefix+"_SERVICE_PORT_"+upper(p.Name), strconv.Itoa(int(p.Port)))
		}
	}
	for i, p := range s.Spec.Ports {
		protocol := string(p.Protocol)
		if protocol == "" {
			protocol = string(corev1.ProtocolTCP)
		}
		port := strconv.Itoa(int(p.Port))
		url := strings.ToLower(protocol) + "://" + net.JoinHostPort(ip, port)
		if i == 0 {
			out.set(prefix+"_PORT", url)
		}
		name := fmt.Sprintf("%s_PORT_%s_%s", prefix, port, strings.ToUpper(protocol))
		out.set(name, url)
		out.set(name+"_PROTO", strings.ToLower(protocol))
		out.set(name+"_PORT", port)
		out.set(name+"_ADDR", ip)
	}
}
