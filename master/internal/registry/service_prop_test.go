package registry_test

import (
	"fmt"
	"net/netip"
	"path/filepath"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"pgregory.net/rapid"

	"github.com/whalepod/whalepod/api/server"
)

// TestAllocationProperties: whatever Services come, change and go, with restarts between: no address and no port is ever
// two Services', none is outside its range, what somebody had is free when it is gone, and nobody is told that a range is
// full while it is not.
func TestAllocationProperties(t *testing.T) {
	const addresses, ports = 14, 6
	types := []corev1.ServiceType{corev1.ServiceTypeClusterIP, corev1.ServiceTypeNodePort, corev1.ServiceTypeLoadBalancer, corev1.ServiceTypeExternalName}
	dir, round := t.TempDir(), 0
	rapid.Check(t, func(rt *rapid.T) {
		round++
		path := filepath.Join(dir, fmt.Sprint(round))
		e := open(t, options{cidr: "10.254.0.0/28", ports: ports, path: path})
		defer func() { e.stop() }()
		shape := func(s *corev1.Service) {
			s.Spec.Type = rapid.SampledFrom(types).Draw(rt, "type")
			s.Spec.ExternalName = ""
			if s.Spec.Type == corev1.ServiceTypeExternalName {
				s.Spec.ExternalName = "example.com"
			}
			if s.Spec.Type == corev1.ServiceTypeLoadBalancer && rapid.Bool().Draw(rt, "local") {
				local(s)
			}
		}
		made := 0
		for range rapid.IntRange(1, 18).Draw(rt, "steps") {
			have := all(t, e)
			usedIPs, usedPorts := audit(rt, have)
			var err error
			switch op := rapid.IntRange(0, 9).Draw(rt, "op"); {
			case op < 5 || len(have) == 0:
				made++
				s := service(fmt.Sprint("s", made), corev1.ServiceTypeClusterIP, 80)
				shape(s)
				if s.Spec.Type != corev1.ServiceTypeExternalName && rapid.IntRange(0, 2).Draw(rt, "ask") == 0 {
					s.Spec.ClusterIP = fmt.Sprint("10.254.0.", rapid.IntRange(0, 17).Draw(rt, "ip"))
				}
				if s.Spec.Type == corev1.ServiceTypeNodePort && rapid.Bool().Draw(rt, "asks") {
					s.Spec.Ports[0].NodePort = int32(rapid.IntRange(29999, 30000+ports).Draw(rt, "port"))
				}
				_, err = e.create(s)
			case op < 7:
				s := rapid.SampledFrom(have).Draw(rt, "which")
				_, err = change(e, "", s, shape)
			case op < 9:
				s := rapid.SampledFrom(have).Draw(rt, "which")
				if _, err := e.delete(s, server.DeleteOptions{}); err != nil {
					rt.Fatal(err)
				}
			default:
				e.stop()
				e = open(t, options{cidr: "10.254.0.0/28", ports: ports, path: path})
				if after := all(t, e); fmt.Sprint(after) != fmt.Sprint(have) {
					rt.Fatalf("a restart has changed\n%v to\n%v", have, after)
				}
			}
			if err == nil {
				continue
			}
			if text := err.Error(); strings.Contains(text, "serviceIP: range") && usedIPs < addresses {
				rt.Fatalf("%d addresses of %d are taken, but: %s", usedIPs, addresses, text)
			} else if strings.Contains(text, "odePort: range") && usedPorts < ports-1 { // one that does not get all it needs gets nothing
				rt.Fatalf("%d ports of %d are taken, but: %s", usedPorts, ports, text)
			}
		}
		audit(rt, all(t, e))
	})
}

func all(t *testing.T, e *env) (out []*corev1.Service) {
	list, err := e.List(e.ctx, res("services"), server.ListQuery{})
	if err != nil {
		t.Fatal(err)
	}
	for _, o := range list.Items {
		out = append(out, o.(*corev1.Service))
	}
	return out
}

// audit fails when something is given twice, or is outside its range; it counts what is given.
func audit(rt *rapid.T, list []*corev1.Service) (ips, ports int) {
	owner := map[string]string{}
	take := func(what string, s *corev1.Service) {
		if owner[what] != "" {
			rt.Fatalf("%s is given to %s and to %s", what, owner[what], s.Name)
		}
		owner[what] = s.Name
	}
	for _, s := range list {
		external := s.Spec.Type == corev1.ServiceTypeExternalName
		if external != (s.Spec.ClusterIP == "") {
			rt.Fatalf("%s of type %s has %q", s.Name, s.Spec.Type, s.Spec.ClusterIP)
		}
		if !external {
			addr, err := netip.ParseAddr(s.Spec.ClusterIP)
			if err != nil || !netip.MustParsePrefix("10.254.0.0/28").Contains(addr) || addr.As4()[3] == 0 || addr.As4()[3] == 15 {
				rt.Fatalf("%s has %s", s.Name, s.Spec.ClusterIP)
			}
			take(s.Spec.ClusterIP, s)
			ips++
		}
		given := []int32{s.Spec.Ports[0].NodePort, s.Spec.HealthCheckNodePort}
		wanted := []bool{s.Spec.Type == corev1.ServiceTypeNodePort || s.Spec.Type == corev1.ServiceTypeLoadBalancer,
			s.Spec.Type == corev1.ServiceTypeLoadBalancer && s.Spec.ExternalTrafficPolicy == corev1.ServiceExternalTrafficPolicyLocal}
		for i, p := range given {
			if (p != 0) != wanted[i] || p != 0 && (p < 30000 || p > 30005) {
				rt.Fatalf("%s of type %s has the ports %v", s.Name, s.Spec.Type, given)
			}
			if p != 0 {
				take(fmt.Sprint(p), s)
				ports++
			}
		}
	}
	return ips, ports
}
