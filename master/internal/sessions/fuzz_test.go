package sessions

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/whalepod/whalepod/master/internal/controllers/controllertest"
	"github.com/whalepod/whalepod/master/internal/pki"
	agentv1 "github.com/whalepod/whalepod/proto/agent/v1"
)

// agentStream is an agent that says what it was given and then ends.
type agentStream struct {
	grpc.ServerStream
	ctx      context.Context
	messages []*agentv1.FromAgent
	data     []*agentv1.TunnelData
}

func (s *agentStream) Context() context.Context          { return s.ctx }
func (s *agentStream) Send(m *agentv1.FromMaster) error  { return nil }
func (s *agentStream) Recv() (*agentv1.FromAgent, error) { return next(&s.messages) }

type tunnelled struct{ *agentStream }

func (s tunnelled) Send(*agentv1.TunnelData) error     { return nil }
func (s tunnelled) Recv() (*agentv1.TunnelData, error) { return next(&s.data) }

func next[T any](list *[]*T) (*T, error) {
	if len(*list) == 0 {
		return nil, io.EOF
	}
	m := (*list)[0]
	*list = (*list)[1:]
	return m, nil
}

// asNode is a context of a call that a node makes.
func asNode(ctx context.Context, name string) context.Context {
	cert := &x509.Certificate{Subject: pkix.Name{CommonName: pki.NodePrefix + name, Organization: []string{pki.GroupNodes}}}
	return peer.NewContext(ctx, &peer.Peer{AuthInfo: credentials.TLSInfo{State: tls.ConnectionState{VerifiedChains: [][]*x509.Certificate{{cert}}}}})
}

func message(t testing.TB, m proto.Message) []byte {
	t.Helper()
	data, err := proto.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func object(t testing.TB, o interface{ Marshal() ([]byte, error) }) []byte {
	t.Helper()
	data, err := o.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// FuzzFromAgent: a session of two messages and a tunnel's bytes, in any form. A node can neither make the master panic nor
// change what is not its own.
func FuzzFromAgent(f *testing.F) {
	e := controllertest.New(f)
	s := newServer(e, "10.244.0.0/16")
	theirs := controllertest.Create(e, &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "theirs"},
		Spec:       corev1.PodSpec{NodeName: "n2", Containers: []corev1.Container{{Name: "c", Image: "i"}}},
	})
	mine := controllertest.Create(e, &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "mine"},
		Spec:       corev1.PodSpec{NodeName: "n1", Containers: []corev1.Container{{Name: "c", Image: "i"}}},
	})
	hello := func(n *corev1.Node) []byte {
		return message(f, &agentv1.FromAgent{Message: &agentv1.FromAgent_Hello{Hello: &agentv1.Hello{Node: object(f, n)}}})
	}
	batch := func(b *agentv1.StatusBatch) []byte {
		return message(f, &agentv1.FromAgent{Message: &agentv1.FromAgent_Status{Status: b}})
	}
	running := object(f, &corev1.PodStatus{Phase: corev1.PodRunning, ContainerStatuses: []corev1.ContainerStatus{{Name: "c"}}})
	f.Add(hello(node("n1", "")), batch(&agentv1.StatusBatch{Sequence: 1, Node: object(f, &corev1.NodeStatus{Phase: "x"}), Pods: []*agentv1.PodStatus{
		{Namespace: "default", Name: "mine", Uid: string(mine.UID), Status: running},
		{Namespace: "default", Name: "theirs", Uid: string(theirs.UID), Status: running, Gone: true}, {}, {Status: []byte{0xff}},
	}, Events: []*agentv1.PodEvent{{Kind: "Node"}, {UnixNano: 1 << 62}, {Namespace: "default", Name: "mine", Uid: string(mine.UID), Reason: "X"}}}), []byte("x"))
	f.Add(hello(node("n2", "")), message(f, &agentv1.FromAgent{Message: &agentv1.FromAgent_Heartbeat{}}), []byte{})
	f.Add(batch(&agentv1.StatusBatch{}), hello(node("n1", "10.244.9.0/24")), []byte{})
	f.Add([]byte{}, []byte{0x0a, 0x00}, []byte{})
	f.Fuzz(func(t *testing.T, first, second, bytes []byte) {
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		stream := &agentStream{ctx: asNode(ctx, "n1"), data: []*agentv1.TunnelData{{Data: bytes}, {}}}
		for _, data := range [][]byte{first, second} {
			m := &agentv1.FromAgent{}
			if proto.Unmarshal(data, m) == nil {
				stream.messages = append(stream.messages, m)
			}
		}
		_ = s.Session(stream)
		pod, err := controllertest.Find[*corev1.Pod](e, "default", "theirs")
		if err != nil || pod.UID != theirs.UID || pod.ResourceVersion != theirs.ResourceVersion {
			t.Errorf("another node's pod: %+v, %v", pod, err)
		}
		if _, err := controllertest.Find[*corev1.Pod](e, "default", "mine"); err != nil {
			t.Error(err) // nobody asked to delete it
		}
		// What it reported can be told to people.
		if mine, err := controllertest.Find[*corev1.Pod](e, "default", "mine"); err == nil {
			if _, err := mine.Marshal(); err != nil {
				t.Error(err)
			}
		}
		if n, err := controllertest.Find[*corev1.Node](e, "", "n1"); err == nil && n.Name != "n1" {
			t.Error(n)
		}
		tunnel(t, s, stream, string(bytes))
	})
}

// tunnel opens one under any ID, and one that is waited for.
func tunnel(t *testing.T, s *Server, stream *agentStream, id string) {
	t.Helper()
	far := make(chan net.Conn, 1)
	s.mu.Lock()
	s.tunnels["waited for"] = &pendingTunnel{node: "n1", conn: far}
	s.mu.Unlock()
	if id != "waited for" {
		stream := &agentStream{ctx: metadata.NewIncomingContext(stream.ctx, metadata.Pairs(tunnelIDKey, id))}
		if err := s.Tunnel(tunnelled{stream}); status.Code(err) != codes.NotFound {
			t.Errorf("tunnel %q: %v", id, err)
		}
	}
	if err := s.Tunnel(tunnelled{stream}); status.Code(err) != codes.InvalidArgument {
		t.Errorf("a tunnel without ID: %v", err)
	}
	want := stream.data[0].Data
	go func() {
		if err := s.Tunnel(tunnelled{&agentStream{ctx: metadata.NewIncomingContext(stream.ctx, metadata.Pairs(tunnelIDKey, "waited for")), data: stream.data}}); err != nil {
			t.Error(err)
		}
	}()
	conn := <-far
	defer conn.Close()
	if got, err := io.ReadAll(conn); err != nil || string(got) != string(want) {
		t.Errorf("through the tunnel: %q, %v", got, err)
	}
}

// FuzzCheckToken: only the token that there is lets anybody in.
func FuzzCheckToken(f *testing.F) {
	e := controllertest.New(f)
	controllertest.Create(e, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: metav1.NamespaceSystem}})
	const secret = "zyxwvutsrqponmlk"
	const token = "abcdef." + secret
	controllertest.Create(e, &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Namespace: metav1.NamespaceSystem, Name: tokenSecretPrefix + "abcdef"}, Type: tokenSecretType,
		Data: map[string][]byte{"token-id": []byte("abcdef"), "token-secret": []byte(secret), "usage-bootstrap-authentication": []byte("true")},
	})
	for _, s := range []string{token, "", ".", "abcdef.", "abcdef.zyxwvutsrqponmll", "../../.zyxwvutsrqponmlk", "ABCDEF.ZYXWVUTSRQPONMLK", token + "\n"} {
		f.Add(s, "n1")
	}
	s := newServer(e, "10.244.0.0/16")
	f.Fuzz(func(t *testing.T, text, name string) {
		if err := CheckToken(e.Registry, text, time.Now()); (err == nil) != (text == token) {
			t.Errorf("%q: %v", text, err)
		}
		if text == token {
			return // it would be let in, and this server signs nothing
		}
		_, err := s.Join(t.Context(), &agentv1.JoinRequest{Token: text, NodeName: name, Csr: []byte(text)})
		if code := status.Code(err); code != codes.PermissionDenied && code != codes.InvalidArgument {
			t.Errorf("join as %q with %q: %v", name, text, err)
		}
		if err != nil && strings.Contains(err.Error(), secret) && !strings.Contains(name+text, secret) {
			t.Errorf("the secret is told: %v", err)
		}
	})
}
