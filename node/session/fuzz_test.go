package session

import (
	"context"
	"io"
	"log/slog"
	"net"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/whalepod/whalepod/node/desired"
	agentv1 "github.com/whalepod/whalepod/proto/agent/v1"
)

// fakeStream says what it was given and then ends.
type fakeStream struct {
	grpc.ClientStream
	messages []*agentv1.FromMaster
}

func (s *fakeStream) Send(*agentv1.FromAgent) error { return nil }

func (s *fakeStream) Recv() (*agentv1.FromMaster, error) {
	if len(s.messages) == 0 {
		return nil, io.EOF
	}
	m := s.messages[0]
	s.messages = s.messages[1:]
	return m, nil
}

// fakeAPI is a master that says only that.
type fakeAPI struct {
	agentv1.AgentClient
	stream *fakeStream
}

func (a fakeAPI) Session(context.Context, ...grpc.CallOption) (agentv1.Agent_SessionClient, error) {
	return a.stream, nil
}

func (a fakeAPI) Tunnel(context.Context, ...grpc.CallOption) (agentv1.Agent_TunnelClient, error) {
	return nil, io.EOF
}

func hear(t testing.TB, d *desired.State, messages ...*agentv1.FromMaster) error {
	c := New(Config{
		Identity: &Identity{Node: "n1"}, Dir: t.TempDir(), Desired: d, Outbox: NewOutbox(), Serve: func(context.Context, net.Conn) {},
		Node:     func(context.Context) (*corev1.Node, error) { return &corev1.Node{}, nil },
		Welcomed: func(c *agentv1.ClusterConfig, _ string) error { _ = c.ClusterDomain; return nil },
		Logger:   slog.New(slog.DiscardHandler),
	})
	return c.session(t.Context(), fakeAPI{stream: &fakeStream{messages: messages}})
}

func welcome(millis int64) *agentv1.FromMaster {
	return &agentv1.FromMaster{Message: &agentv1.FromMaster_Welcome{Welcome: &agentv1.Welcome{Config: &agentv1.ClusterConfig{}, HeartbeatMillis: millis}}}
}

// A master that says nonsense is no reason to die, and no reason to forget what is known.
func TestStrangeMaster(t *testing.T) {
	d, err := desired.Open(desired.Config{Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	const other = "the master did not welcome this node: is it of another version?"
	for name, m := range map[string]*agentv1.FromMaster{
		"nothing": {}, "no welcome": {Message: &agentv1.FromMaster_Acknowledge{Acknowledge: &agentv1.Acknowledge{}}},
		"an empty welcome": {Message: &agentv1.FromMaster_Welcome{Welcome: &agentv1.Welcome{}}},
	} {
		if err := hear(t, d, m); err == nil || err.Error() != other {
			t.Errorf("%s: %v", name, err)
		}
	}
	for millis, want := range map[int64]time.Duration{
		0: defaultHeartbeat, -5: defaultHeartbeat, 1: heartbeatMin, 2000: 2 * time.Second, 1 << 62: heartbeatMax, 9223372036855: heartbeatMax,
	} {
		if got := heartbeatOf(millis); got != want {
			t.Errorf("heartbeat of %d is %s", millis, got)
		}
	}
}

// FuzzFromMaster: two messages of a master after its welcome, in any form.
func FuzzFromMaster(f *testing.F) {
	pod, err := (&corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "web", UID: "1"}}).Marshal()
	if err != nil {
		f.Fatal(err)
	}
	seed := func(m *agentv1.FromMaster) []byte {
		data, err := proto.Marshal(m)
		if err != nil {
			f.Fatal(err)
		}
		return data
	}
	changes := func(c ...*agentv1.Change) []byte {
		return seed(&agentv1.FromMaster{Message: &agentv1.FromMaster_Changes{Changes: &agentv1.Changes{Changes: c, Begin: true, Complete: true, Revision: 7}}})
	}
	open := seed(&agentv1.FromMaster{Message: &agentv1.FromMaster_OpenTunnel{OpenTunnel: &agentv1.OpenTunnel{Id: "x"}}})
	f.Add(changes(&agentv1.Change{Resource: "pods", Namespace: "default", Name: "web", Object: pod}), changes(&agentv1.Change{Resource: "pods", Namespace: "default", Name: "web", Deleted: true}))
	f.Add(changes(&agentv1.Change{Resource: "nodes", Name: "n1", Object: []byte{0xff}}), open)
	f.Add(changes(&agentv1.Change{Resource: "endpointslices.discovery.k8s.io"}, &agentv1.Change{}), seed(welcome(1)))
	f.Add(seed(&agentv1.FromMaster{Message: &agentv1.FromMaster_Acknowledge{Acknowledge: &agentv1.Acknowledge{Sequence: 1 << 63}}}), []byte{})
	d, err := desired.Open(desired.Config{Dir: f.TempDir()})
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(func() { d.Close() })
	f.Fuzz(func(t *testing.T, first, second []byte) {
		messages := []*agentv1.FromMaster{welcome(2000)}
		for _, data := range [][]byte{first, second} {
			m := &agentv1.FromMaster{}
			if proto.Unmarshal(data, m) == nil {
				messages = append(messages, m)
			}
		}
		if err := hear(t, d, messages...); err == nil {
			t.Error("the end of the session is no error")
		}
		for _, pod := range d.Pods() { // what the agent took is fit to be looked at
			_ = pod.DeepCopy()
		}
	})
}
