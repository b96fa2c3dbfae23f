package netfiles

import (
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
)

func TestServerInTheMachinesFile(t *testing.T) {
	const own = "# mine\nsearch lan\nnameserver 192.0.2.1\noptions timeout:3\n"
	with := string(WithServer([]byte(own), "10.254.254.1"))
	if !strings.Contains(with, "\nnameserver 10.254.254.1\noptions timeout:1\n") || !strings.HasSuffix(with, own) {
		t.Errorf("with: %s", with)
	}
	for name, c := range map[string]struct{ file, want string }{
		"as it was":                   {with, own},
		"others wrote before it":      {"nameserver 192.0.2.9\n" + with, "nameserver 192.0.2.9\n" + own},
		"others wrote behind it":      {with + "nameserver 192.0.2.9\n", own + "nameserver 192.0.2.9\n"},
		"the last line is gone":       {strings.Replace(with, machineEnd, "", 1), own},
		"only the first line is left": {machineBegin, ""},
		"twice":                       {with + with, own + own},
		"never":                       {own, own},
		"nothing":                     {"", ""},
	} {
		if got := string(WithoutServer([]byte(c.file))); got != c.want {
			t.Errorf("%s: %q, want %q", name, got, c.want)
		}
	}
	if again := string(WithServer([]byte(with), "10.254.254.1")); again != with {
		t.Errorf("put in twice: %s", again)
	}
	// Pods get what the machine had.
	pod := &corev1.Pod{Spec: corev1.PodSpec{DNSPolicy: corev1.DNSDefault}}
	if got := string(ForPod(pod, ParseResolv([]byte(with)), Cluster{"cluster.local", "10.254.254.1"}).Bytes()); got != "search lan\nnameserver 192.0.2.1\noptions timeout:3\n" {
		t.Errorf("a pod's: %s", got)
	}
}
