package session

import (
	"fmt"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"
	corev1 "k8s.io/api/core/v1"
)

func TestOutbox(t *testing.T) {
	o := NewOutbox()
	take := func() (pods, events int, sequence uint64) {
		t.Helper()
		b, err := o.batch()
		if err != nil {
			t.Fatal(err)
		}
		return len(b.GetPods()), len(b.GetEvents()), b.GetSequence()
	}
	for range 3 {
		o.Pod("default", "a", "1", &corev1.PodStatus{})
		o.Event(Event{Name: "a", Message: "first"})
	}
	pods, events, first := take()
	if pods != 1 || events != 3 {
		t.Fatalf("%d pods, %d events", pods, events)
	}
	if b, _ := o.batch(); b != nil {
		t.Fatal("told twice", b)
	}
	o.Gone("default", "a", "1")
	o.Event(Event{Name: "a", Message: "second"})
	pods, _, second := take()
	o.acknowledge(first)
	if pods != 1 || second <= first || len(o.inFlight) != 1 || len(o.pods) != 1 {
		t.Fatal(pods, first, second, o.inFlight, o.pods)
	}
	// The session breaks: what was not acknowledged is told again, in order.
	o.Event(Event{Name: "a", Message: "third"})
	o.restart()
	b, err := o.batch()
	if err != nil || len(b.Pods) != 1 || !b.Pods[0].Gone || len(b.Events) != 2 || b.Events[0].Message != "second" || b.Events[1].Message != "third" {
		t.Fatal(b, err)
	}
	o.acknowledge(b.Sequence)
	if len(o.pods) != 0 || len(o.inFlight) != 0 {
		t.Error("remembered for nothing:", o.pods, o.inFlight)
	}
}

// Days without a master cost no memory beyond a bound, and the newest events are kept.
func TestOutboxIsBounded(t *testing.T) {
	o := NewOutbox()
	for i := range 3 * maxEvents {
		o.Event(Event{Message: fmt.Sprint(i)})
		if i == 100 {
			if _, err := o.batch(); err != nil {
				t.Fatal(err)
			}
		}
	}
	o.restart()
	b, err := o.batch()
	if err != nil || len(b.Events) != maxEvents || b.Events[maxEvents-1].Message != fmt.Sprint(3*maxEvents-1) {
		t.Error(len(b.GetEvents()), err)
	}
}

// A pod's status counts as stored when this session's master has said so, and a later one not before that.
func TestStored(t *testing.T) {
	o := NewOutbox()
	want := func(what string, stored bool) {
		t.Helper()
		if o.Stored() != stored {
			t.Errorf("%s: stored %v", what, !stored)
		}
	}
	send := func() uint64 {
		t.Helper()
		b, err := o.batch()
		if err != nil || b == nil {
			t.Fatal(b, err)
		}
		return b.Sequence
	}
	want("nothing to tell", true)
	o.Pod("ns", "a", "1", &corev1.PodStatus{})
	want("told", false)
	first := send()
	o.Pod("ns", "b", "2", &corev1.PodStatus{})
	second := send()
	o.acknowledge(first)
	want("the first of two", false)
	o.acknowledge(second)
	want("both", true)
	o.restart()
	want("another session", false)
	o.acknowledge(send())
	want("told again", true)
}

// A probe's output is in an event as the container wrote it, perhaps cut off within a character.
func TestAnyEventCanBeSent(t *testing.T) {
	o := NewOutbox()
	o.Event(Event{Message: "Readiness probe failed: \x93\xfa\x96{"})
	o.Event(Event{Message: strings.Repeat("日本", 4000)})
	b, err := o.batch()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := proto.Marshal(b); err != nil {
		t.Error(err)
	}
	if m := b.Events[0].Message; !strings.HasPrefix(m, "Readiness probe failed: ") {
		t.Errorf("message is %q", m)
	}
	if n := len(b.Events[1].Message); n > maxNote+3 || n < maxNote-3 {
		t.Errorf("a long message has %d bytes", n)
	}
}
