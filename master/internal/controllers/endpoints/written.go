package endpoints

import (
	"strconv"
	"sync"

	discoveryv1 "k8s.io/api/discovery/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/types"

	"github.com/whalepod/whalepod/master/internal/registry"
)

// written knows this controller's own writes from those of others: without it every change of a Service would be looked at
// once more because of its slices. It holds a slice from the write until its event has come, so usually nothing.
type written struct {
	mu        sync.Mutex
	revisions map[types.UID]int64
}

// note a slice that is being written, before its event can come.
func (w *written) note(s *discoveryv1.EndpointSlice) {
	revision, err := strconv.ParseInt(s.ResourceVersion, 10, 64)
	if err != nil {
		return // it is looked at once more
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.revisions == nil {
		w.revisions = map[types.UID]int64{}
	}
	w.revisions[s.UID] = revision
}

// forget slices whose write came to nothing. Their Service has another turn, which sees what others have written meanwhile.
func (w *written) forget(uids []types.UID) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, uid := range uids {
		delete(w.revisions, uid)
	}
}

// reset forgets all: everything is looked at anyway, and events may have been missed.
func (w *written) reset() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.revisions = nil
}

// heard says that an event is of this controller's own write, or of one before it: a write takes the place of what it was made
// from and of nothing else.
func (w *written) heard(e registry.Event) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	uid := e.Object.GetUID()
	revision, ok := w.revisions[uid]
	if ok && e.Revision >= revision {
		delete(w.revisions, uid)
	}
	return ok && !e.Deleted && e.Revision <= revision
}

// sameSlice says that nothing this controller cares for differs. The generation follows labels and content.
func sameSlice(a, b *discoveryv1.EndpointSlice) bool {
	return a.Generation == b.Generation && (a.DeletionTimestamp == nil) == (b.DeletionTimestamp == nil) &&
		apiequality.Semantic.DeepEqual(a.OwnerReferences, b.OwnerReferences)
}
