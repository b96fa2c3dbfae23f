package env

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

type source struct {
	maps     map[string]map[string]string
	services []*corev1.Service
}

func (s source) ConfigMap(_, name string) (*corev1.ConfigMap, bool) {
	m, ok := s.maps[name]
	return &corev1.ConfigMap{Data: m}, ok
}

func (s source) Secret(_, name string) (*corev1.Secret, bool) {
	m, ok := s.maps[name]
	data := map[string][]byte{}
	for k, v := range m {
		data[k] = []byte(v)
	}
	return &corev1.Secret{Data: data}, ok
}

func (s source) Services() []*corev1.Service { return s.services }

func TestExpand(t *testing.T) {
	vars := map[string]string{"A": "1", "B_C": "two", "EMPTY": ""}
	for in, want := range map[string]string{
		"":                "",
		"plain":           "plain",
		"$(A)":            "1",
		"x$(A)y$(B_C)z":   "x1ytwoz",
		"$(EMPTY)":        "",
		"$(MISSING)":      "$(MISSING)",
		"$$(A)":           "$(A)",
		"$$$(A)":          "$1",
		"$A $":            "$A $",
		"$(A":             "$(A",
		"$$$$":            "$$",
		"$(MISSING)$(A))": "$(MISSING)1)",
	} {
		got := Expand(in, func(n string) (string, bool) { v, ok := vars[n]; return v, ok })
		if got != want {
			t.Errorf("Expand(%q) = %q, want %q", in, got, want)
		}
	}
}

func ref[T any](v T) *T { return &v }

func testPod(c corev1.Container) *corev1.Pod {
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "p", UID: "u", Labels: map[string]string{"app": "x", "a/b": "y"}},
		Spec:       corev1.PodSpec{NodeName: "n1", Containers: []corev1.Container{c}, EnableServiceLinks: ref(false)},
	}
}

func TestVariables(t *testing.T) {
	src := source{maps: map[string]map[string]string{"cm": {"k": "v", "A": "from-cm"}, "sec": {"pw": "p$(A)"}}}
	cmKey := func(name, key string, opt *bool) *corev1.EnvVarSource {
		return &corev1.EnvVarSource{ConfigMapKeyRef: &corev1.ConfigMapKeySelector{LocalObjectReference: corev1.LocalObjectReference{Name: name}, Key: key, Optional: opt}}
	}
	secKey := func(name, key string, opt *bool) *corev1.EnvVarSource {
		return &corev1.EnvVarSource{SecretKeyRef: &corev1.SecretKeySelector{LocalObjectReference: corev1.LocalObjectReference{Name: name}, Key: key, Optional: opt}}
	}
	field := func(p string) *corev1.EnvVarSource {
		return &corev1.EnvVarSource{FieldRef: &corev1.ObjectFieldSelector{FieldPath: p}}
	}
	from := func(prefix, cm, sec string, opt *bool) corev1.EnvFromSource {
		f := corev1.EnvFromSource{Prefix: prefix}
		if cm != "" {
			f.ConfigMapRef = &corev1.ConfigMapEnvSource{LocalObjectReference: corev1.LocalObjectReference{Name: cm}, Optional: opt}
		} else {
			f.SecretRef = &corev1.SecretEnvSource{LocalObjectReference: corev1.LocalObjectReference{Name: sec}, Optional: opt}
		}
		return f
	}
	tests := []struct {
		name string
		c    corev1.Container
		want []string
		err  string
	}{
		{"plain, empty and no value at all", corev1.Container{Env: []corev1.EnvVar{{Name: "A", Value: "1"}, {Name: "E"}, {Name: "B", Value: "$(A)$(E)$(X)"}}}, []string{"A=1", "E=", "B=1$(X)"}, ""},
		{"env wins over envFrom", corev1.Container{EnvFrom: []corev1.EnvFromSource{from("", "cm", "", nil), from("P_", "", "sec", nil)}, Env: []corev1.EnvVar{{Name: "A", Value: "mine-$(k)"}}},
			[]string{"A=mine-v", "k=v", "P_pw=p$(A)"}, ""},
		{"keys", corev1.Container{Env: []corev1.EnvVar{{Name: "A", ValueFrom: cmKey("cm", "k", nil)}, {Name: "B", ValueFrom: secKey("sec", "pw", nil)}}}, []string{"A=v", "B=p$(A)"}, ""},
		{"optional and absent", corev1.Container{Env: []corev1.EnvVar{{Name: "A", ValueFrom: cmKey("no", "k", ref(true))}, {Name: "B", ValueFrom: secKey("sec", "no", ref(true))}}, EnvFrom: []corev1.EnvFromSource{from("", "no", "", ref(true)), from("", "", "no", ref(true))}}, []string{}, ""},
		{"absent map", corev1.Container{Env: []corev1.EnvVar{{Name: "A", ValueFrom: cmKey("no", "k", nil)}}}, nil, `configmap "no" not found`},
		{"absent key", corev1.Container{Env: []corev1.EnvVar{{Name: "A", ValueFrom: cmKey("cm", "zz", nil)}}}, nil, `couldn't find key zz in ConfigMap ns/cm`},
		{"absent secret", corev1.Container{EnvFrom: []corev1.EnvFromSource{from("", "", "no", nil)}}, nil, `secret "no" not found`},
		{"absent secret key", corev1.Container{Env: []corev1.EnvVar{{Name: "A", ValueFrom: secKey("sec", "zz", nil)}}}, nil, `couldn't find key zz in Secret ns/sec`},
		{"fields", corev1.Container{Env: []corev1.EnvVar{{Name: "N", ValueFrom: field("metadata.name")}, {Name: "IP", ValueFrom: field("status.podIP")}, {Name: "L", ValueFrom: field("metadata.labels['a/b']")}, {Name: "H", ValueFrom: field("status.hostIP")}}},
			[]string{"N=p", "IP=10.244.0.2", "L=y", "H=198.51.100.11"}, ""},
		{"unknown field", corev1.Container{Env: []corev1.EnvVar{{Name: "N", ValueFrom: field("spec.nope")}}}, nil, "unsupported fieldPath: spec.nope"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			pod := testPod(tt.c)
			got, err := Variables(pod, &pod.Spec.Containers[0], src, Facts{PodIPs: []string{"10.244.0.2"}, HostIPs: []string{"198.51.100.11"}})
			if tt.err != "" {
				if err == nil || err.Error() != tt.err {
					t.Fatalf("err = %v, want %s", err, tt.err)
				}
				return
			}
			if diff := cmp.Diff(tt.want, got); err != nil || diff != "" {
				t.Fatal(err, diff)
			}
		})
	}
}

func TestServiceVariables(t *testing.T) {
	svc := func(ns, name, ip string, ports ...corev1.ServicePort) *corev1.Service {
		return &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: name}, Spec: corev1.ServiceSpec{ClusterIP: ip, Ports: ports}}
	}
	src := source{services: []*corev1.Service{
		svc("default", "kubernetes", "10.254.0.1", corev1.ServicePort{Name: "https", Port: 443, Protocol: "TCP"}),
		svc("ns", "my-db", "10.254.3.4", corev1.ServicePort{Port: 3306}),
		svc("ns", "headless", "None", corev1.ServicePort{Port: 1}),
		svc("other", "x", "10.254.9.9", corev1.ServicePort{Port: 1}),
	}}
	pod := testPod(corev1.Container{})
	got, _ := Variables(pod, &pod.Spec.Containers[0], src, Facts{})
	want := "KUBERNETES_SERVICE_HOST=10.254.0.1 KUBERNETES_SERVICE_PORT=443 KUBERNETES_SERVICE_PORT_HTTPS=443 KUBERNETES_PORT=tcp://10.254.0.1:443 KUBERNETES_PORT_443_TCP=tcp://10.254.0.1:443 KUBERNETES_PORT_443_TCP_PROTO=tcp KUBERNETES_PORT_443_TCP_PORT=443 KUBERNETES_PORT_443_TCP_ADDR=10.254.0.1"
	if diff := cmp.Diff(want, strings.Join(got, " ")); diff != "" {
		t.Error(diff)
	}
	pod.Spec.EnableServiceLinks = nil
	got, _ = Variables(pod, &pod.Spec.Containers[0], src, Facts{})
	if s := strings.Join(got, " "); !strings.Contains(s, "MY_DB_SERVICE_HOST=10.254.3.4") || !strings.Contains(s, "MY_DB_PORT_3306_TCP_ADDR=10.254.3.4") || strings.Contains(s, "HEADLESS") || strings.Contains(s, "10.254.9.9") {
		t.Error(s)
	}
}

func TestResource(t *testing.T) {
	c := corev1.Container{Name: "c", Resources: corev1.ResourceRequirements{
		Limits:   corev1.ResourceList{"cpu": resource.MustParse("1500m"), "memory": resource.MustParse("64Mi")},
		Requests: corev1.ResourceList{"cpu": resource.MustParse("250m")},
	}}
	pod := testPod(c)
	facts := Facts{Allocatable: corev1.ResourceList{"ephemeral-storage": resource.MustParse("1Gi")}}
	for in, want := range map[string]string{"limits.cpu/": "2", "limits.cpu/1m": "1500", "requests.cpu/1m": "250", "limits.memory/1Mi": "64", "limits.memory/": "67108864", "requests.memory/": "0", "limits.ephemeral-storage/1Mi": "1024"} {
		name, div, _ := strings.Cut(in, "/")
		sel := &corev1.ResourceFieldSelector{ContainerName: "c", Resource: name}
		if div != "" {
			sel.Divisor = resource.MustParse(div)
		}
		if got, err := Resource(pod, nil, sel, facts); err != nil || got != want {
			t.Errorf("%s: %q %v, want %s", in, got, err, want)
		}
	}
	if _, err := Resource(pod, &c, &corev1.ResourceFieldSelector{Resource: "cpu"}, facts); err == nil {
		t.Error("bad selector taken")
	}
}

func FuzzExpand(f *testing.F) {
	f.Add("$(A)$$(")
	f.Fuzz(func(t *testing.T, s string) {
		Expand(s, func(string) (string, bool) { return "x", true })
	})
}
