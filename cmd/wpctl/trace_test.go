package main

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/whalepod/whalepod/node/diagnose/doctor"
)

func TestTraceOptions(t *testing.T) {
	for _, c := range []struct{ args, from, want string }{
		{"web", "", "service web   "},
		{"svc/web", "", "service web   "},
		{"services web", "", "service web   "},
		{"Pod/web-0", "", "pod web-0   "},
		{"svc/web", "node/n1", "service web n1  "},
		{"svc/web", "pod/p", "service web   p"},
		{"svc/web", "po/prod/p", "service web  prod p"},
		{"deployment/web", "", "error: deployment: only Services (svc/NAME) and pods (pod/NAME) can be traced"},
		{"svc/", "", "error: give a name: svc/NAME or pod/NAME"},
		{"svc/a/b", "", "error: give a name: svc/NAME or pod/NAME"},
		{"svc/a svc/b", "", "error: one Service or pod at a time"},
		{"web", "n1", "error: --from n1: give node/NAME or pod/NAME"},
		{"web", "svc/x", "error: --from svc/x: give node/NAME or pod/NAME"},
		{"web", "node/", "error: --from node/: give node/NAME or pod/NAME"},
	} {
		o, err := traceOptions(strings.Fields(c.args), c.from, "")
		got := fmt.Sprintf("%s %s %s %s %s", o.Kind, o.Name, o.FromNode, o.FromPodNamespace, o.FromPod)
		if err != nil {
			got = "error: " + err.Error()
		}
		if got != c.want {
			t.Errorf("%s --from %s: %q, want %q", c.args, c.from, got, c.want)
		}
	}
}

func TestSkew(t *testing.T) {
	for d, want := range map[time.Duration]doctor.State{0: doctor.OK, -1500 * time.Millisecond: doctor.OK, 3 * time.Second: doctor.Warning, -time.Minute: doctor.Bad} {
		f := skew(d)
		if f.State != want || (f.Fix == "") != (want == doctor.OK) {
			t.Errorf("%v: %+v", d, f)
		}
	}
	if f := skew(-time.Minute); !strings.Contains(f.What, "is 1m0s behind the master's: tokens and certificates are refused") {
		t.Error(f.What)
	}
}

func TestConditions(t *testing.T) {
	n := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n1"}}
	show := func() string {
		var out []string
		for _, f := range conditions(n) {
			out = append(out, f.State.Mark()+" "+f.What)
		}
		return strings.Join(out, "|")
	}
	if got := show(); got != "✗ the node has never said that it is ready" {
		t.Error(got)
	}
	n.Status.Conditions = []corev1.NodeCondition{
		{Type: corev1.NodeDiskPressure, Status: corev1.ConditionTrue, Message: "disk is short"}, {Type: corev1.NodePIDPressure, Status: corev1.ConditionFalse},
		{Type: corev1.NodeReady, Status: corev1.ConditionUnknown, Reason: "NodeStatusUnknown", Message: "silent"},
	}
	n.Spec.Unschedulable = true
	if got := show(); got != "✗ the node is not ready: NodeStatusUnknown: silent|✗ DiskPressure: disk is short|! the node takes no new pods" {
		t.Error(got)
	}
	n.Status.Conditions, n.Spec.Unschedulable = []corev1.NodeCondition{{Type: corev1.NodeReady, Status: corev1.ConditionTrue}}, false
	if got := show(); got != "✓ the node is ready" {
		t.Error(got)
	}
}

func TestVersions(t *testing.T) {
	list := []corev1.Node{{ObjectMeta: metav1.ObjectMeta{Name: "a"}}, {ObjectMeta: metav1.ObjectMeta{Name: "b"}}}
	if f := versions(list); f != nil {
		t.Error(f)
	}
	list[0].Status.NodeInfo.KubeletVersion = "v1"
	list[1].Status.NodeInfo.KubeletVersion = "v2"
	if f := versions(list); len(f) != 1 || f[0].What != "agents differ: v1 on a; v2 on b" {
		t.Error(f)
	}
}

func certificateFor(t *testing.T, end time.Time) string {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	c := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: end}
	der, err := x509.CreateCertificate(rand.Reader, c, c, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
}

// What a machine's files say of its place; without any, the defaults.
func TestLocalPlace(t *testing.T) {
	dir := t.TempDir()
	p := localPlace(dir, dockerSocket, "")
	if p.Master || !p.Agent || p.Running || len(p.Masters) != 0 || p.Pods.String() != "10.244.0.0/16" || p.Certificates != nil {
		t.Errorf("%+v", p)
	}
	end := time.Now().Add(time.Hour).UTC().Truncate(time.Second)
	write := func(name, text string) {
		t.Helper()
		if err := os.MkdirAll(filepath.Join(dir, filepath.Dir(name)), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	id, err := json.Marshal(map[string]any{
		"node": "n1", "masters": []string{"198.51.100.11:6444"}, "certificate": certificateFor(t, end), "ca": "damaged",
		"config": map[string]string{"serviceCidr": "10.96.0.0/12", "podCidr": "10.32.0.0/16", "dnsIp": "10.96.0.10"},
	})
	if err != nil {
		t.Fatal(err)
	}
	write("agent/identity.json", string(id))
	write("master/pki/apiserver.crt", certificateFor(t, end))
	p = localPlace(dir, dockerSocket, "")
	if !p.Master || fmt.Sprint(p.Masters, p.Pods, p.Services, p.DNS) != "[198.51.100.11:6444] 10.32.0.0/16 10.96.0.0/12 10.96.0.10" || len(p.Certificates) != 2 || !p.Certificates[0].NotAfter.Equal(end) {
		t.Errorf("%+v", p)
	}
	alone := t.TempDir() // a master that is no node: it needs no Docker
	if err := os.Rename(filepath.Join(dir, "master"), filepath.Join(alone, "master")); err != nil {
		t.Fatal(err)
	}
	if p := localPlace(alone, dockerSocket, ""); !p.Master || p.Agent {
		t.Errorf("%+v", p)
	}
	if p = localPlace(dir, dockerSocket, "203.0.113.1:6444"); fmt.Sprint(p.Masters) != "[203.0.113.1:6444]" {
		t.Error(p.Masters)
	}
}

func TestPrintExamination(t *testing.T) {
	e := examination{
		Cluster: []doctor.Finding{{Check: "api", State: doctor.OK, What: "answers"}},
		Nodes: map[string][]doctor.Finding{
			"n2": {{Check: "disk", State: doctor.Bad, What: "is full", Fix: "make room"}},
			"n1": {{Check: "memory", State: doctor.Warning, What: "no swap", Fix: "swapon"}},
		},
	}
	var b bytes.Buffer
	e.print(&b)
	want := `cluster
  ✓ api          answers
n1
  ! memory       no swap
                 → swapon
n2
  ✗ disk         is full
                 → make room

1 broken (✗), 1 to look at (!).
`
	if b.String() != want || e.worst() != doctor.Bad {
		t.Errorf("%s", b.String())
	}
	for end, state := range map[string]doctor.State{
		"Nothing is broken.": doctor.OK, "Nothing is broken; 1 to look at (!).": doctor.Warning, "Nothing is broken of what could be found out.": doctor.Unknown,
	} {
		b.Reset()
		examination{Cluster: []doctor.Finding{{Check: "x", State: state}}}.print(&b)
		if !strings.HasSuffix(b.String(), "\n"+end+"\n") {
			t.Errorf("%s ends with %s", state, b.String())
		}
	}
}
