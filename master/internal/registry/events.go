package registry

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync/atomic"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/whalepod/whalepod/master/internal/store"
)

const (
	// Events waiting to be written; more are dropped, since what they tell can be seen in the objects.
	eventQueue = 4096
	// Events in one transaction: a burst of them must not keep other writers waiting.
	eventBatch = 256
	// Remembered events, by which repeats are folded into a count.
	eventMemory = 2048
	// A repeat that comes later than this begins a new event (as client-go's correlator does).
	eventFold = 10 * time.Minute
	// Events are kept this long (Kubernetes' --event-ttl).
	eventTTL        = time.Hour
	eventCleanEvery = 5 * time.Minute
)

// EventInput is something worth telling the user about an object.
type EventInput struct {
	Object                           corev1.ObjectReference
	Type, Reason, Message, Component string
	Host                             string
	// Time of the occurrence; zero for now.
	Time time.Time
}

type eventKey struct{ uid, fieldPath, kind, namespace, name, typ, reason, message, component, host string }

type rememberedEvent struct {
	key  Key
	last time.Time
}

// recorder writes events in the background, many at a time.
type recorder struct {
	r     *Registry
	queue chan EventInput
	// dropped since the last were written.
	dropped atomic.Int64
	seen    map[eventKey]rememberedEvent
	stamp   int64 // in the name of the last event, in nanoseconds
}

func newRecorder(r *Registry) *recorder {
	return &recorder{r: r, queue: make(chan EventInput, eventQueue), seen: map[eventKey]rememberedEvent{}}
}

// Record tells the user what happened to an object. It never blocks.
func (r *Registry) Record(obj Object, eventType, reason, message, component string) {
	res, err := r.resourceOf(obj)
	if err != nil {
		r.log.Error("event about an unknown kind", "err", err)
		return
	}
	gvk := res.GroupVersionKind()
	r.RecordEvent(EventInput{
		Object: corev1.ObjectReference{
			APIVersion: gvk.GroupVersion().String(), Kind: gvk.Kind, Namespace: obj.GetNamespace(), Name: obj.GetName(),
			UID: obj.GetUID(), ResourceVersion: obj.GetResourceVersion(),
		},
		Type: eventType, Reason: reason, Message: message, Component: component,
	})
}

// RecordEvent is Record for those who know more than the object (an agent's container). It never blocks.
func (r *Registry) RecordEvent(in EventInput) {
	if in.Time.IsZero() {
		in.Time = time.Now()
	}
	select {
	case r.events.queue <- in:
	default:
		r.events.dropped.Add(1)
	}
}

func (c *recorder) run(ctx context.Context) error {
	clean := time.NewTicker(eventCleanEvery)
	defer clean.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case in := <-c.queue:
			c.write(ctx, c.drain(in))
		case <-clean.C:
			c.forget()
			c.expire(ctx)
		}
	}
}

func (c *recorder) drain(first EventInput) []EventInput {
	batch := []EventInput{first}
	for len(batch) < eventBatch {
		select {
		case in := <-c.queue:
			batch = append(batch, in)
		default:
			return batch
		}
	}
	return batch
}

func (c *recorder) write(ctx context.Context, batch []EventInput) {
	if n := c.dropped.Swap(0); n > 0 {
		c.r.log.Warn("events dropped: too many at once", "count", n)
	}
	var fresh map[eventKey]rememberedEvent
	err := c.r.Transact(ctx, func(tx *Tx) error {
		fresh = map[eventKey]rememberedEvent{}
		for _, in := range batch {
			if err := c.record(tx, in, fresh); err != nil {
				// The namespace may be gone, which is no reason to lose the other events.
				c.r.log.Debug("event not recorded", "object", in.Object.Name, "reason", in.Reason, "err", err)
			}
		}
		return nil
	})
	if err != nil {
		if ctx.Err() == nil {
			c.r.log.Error("events not recorded", "count", len(batch), "err", err)
		}
		return
	}
	for k, v := range fresh {
		c.seen[k] = v
	}
	if len(c.seen) > eventMemory {
		clear(c.seen) // rare; the price is that the next repeats begin new events
	}
}

func (c *recorder) record(tx *Tx, in EventInput, fresh map[eventKey]rememberedEvent) error {
	o := in.Object
	k := eventKey{string(o.UID), o.FieldPath, o.Kind, o.Namespace, o.Name, in.Type, in.Reason, in.Message, in.Component, in.Host}
	known, ok := fresh[k]
	if !ok {
		known, ok = c.seen[k]
	}
	at := metav1.NewTime(in.Time.Truncate(time.Second))
	if ok && in.Time.Sub(known.last) < eventFold {
		if ev, err := Get[*corev1.Event](tx, known.key.Namespace, known.key.Name); err == nil {
			ev = ev.DeepCopy()
			ev.Count++
			if ev.LastTimestamp.Before(&at) { // an agent may tell late what happened before
				ev.LastTimestamp = at
			}
			if in.Time.After(known.last) {
				known.last = in.Time
			}
			fresh[k] = known
			_, err = Put(tx, ev)
			return err
		}
	}
	ns := o.Namespace
	if ns == "" {
		ns = metav1.NamespaceDefault // events about cluster-scoped objects live there
	}
	ev := &corev1.Event{
		ObjectMeta:     metav1.ObjectMeta{Namespace: ns, Name: c.name(tx, ns, o.Name, in.Time)},
		InvolvedObject: o, Type: in.Type, Reason: in.Reason, Message: in.Message, Count: 1,
		Source:         corev1.EventSource{Component: in.Component, Host: in.Host},
		FirstTimestamp: at, LastTimestamp: at, ReportingController: in.Component, ReportingInstance: in.Host,
	}
	ev, err := Create(tx, ev)
	if err == nil {
		fresh[k] = rememberedEvent{Key{Resource: "events", Namespace: ns, Name: ev.Name}, in.Time}
	}
	return err
}

// name makes the name of a new event as client-go does, from the object's and the time. Events of the same nanosecond, also
// many of them, get different times.
func (c *recorder) name(tx *Tx, namespace, object string, at time.Time) string {
	for c.stamp = max(c.stamp+1, at.UnixNano()); ; c.stamp++ {
		name := fmt.Sprintf("%s.%x", object, c.stamp)
		if _, err := tx.Reader.Get(Key{Resource: "events", Namespace: namespace, Name: name}); err != nil {
			return name
		}
	}
}

func (c *recorder) forget() {
	old := time.Now().Add(-eventFold)
	for k, v := range c.seen {
		if v.last.Before(old) {
			delete(c.seen, k)
		}
	}
}

// expire deletes old events. They are looked for without the writers' lock; one that was seen again meanwhile stays.
func (c *recorder) expire(ctx context.Context) {
	old := time.Now().Add(-eventTTL)
	var gone []*corev1.Event
	err := c.r.View(func(v *View) error {
		for ev := range List[*corev1.Event](v, "") {
			if lastSeen(ev).Before(old) {
				gone = append(gone, ev)
			}
		}
		return nil
	})
	for part := range slices.Chunk(gone, eventBatch) {
		if err == nil {
			err = c.r.Transact(ctx, func(tx *Tx) error { return tx.forgetEvents(part) })
		}
	}
	if err != nil && ctx.Err() == nil {
		c.r.log.Error("old events not deleted", "err", err)
	}
}

func (tx *Tx) forgetEvents(gone []*corev1.Event) error {
	for _, ev := range gone {
		_, err := tx.tx.Delete(Key{Resource: "events", Namespace: ev.Namespace, Name: ev.Name}, string(ev.UID), ev.ResourceVersion)
		if err != nil && !errors.Is(err, store.ErrNotFound) && !errors.Is(err, store.ErrConflict) {
			return err
		}
	}
	return nil
}

func lastSeen(ev *corev1.Event) time.Time {
	last := ev.CreationTimestamp.Time
	for _, t := range []time.Time{ev.LastTimestamp.Time, ev.EventTime.Time} {
		if t.After(last) {
			last = t
		}
	}
	if ev.Series != nil && ev.Series.LastObservedTime.After(last) {
		last = ev.Series.LastObservedTime.Time
	}
	return last
}
