package meter

import (
	"context"
	"errors"
	"os"
	"testing"
	"time"
)

// A machine whose kernel cannot tell is no error that ends anything: the caller looks now and then instead.
func TestNoStalls(t *testing.T) {
	m := at(t.TempDir(), t.TempDir())
	if err := m.Stalls(t.Context(), func() {}); !errors.Is(err, os.ErrNotExist) {
		t.Error(err)
	}
}

// Where the kernel has it, waiting for stalls ends with its context and leaves no descriptor open.
func TestStallsEnd(t *testing.T) {
	if _, err := os.Stat("/proc/pressure/memory"); err != nil {
		t.Log("this kernel has no pressure stall information")
		return
	}
	before := descriptors(t)
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- New().Stalls(ctx, func() {}) }()
	cancel()
	select {
	case err := <-ended:
		if err != nil && !errors.Is(err, os.ErrPermission) && !errors.Is(err, errors.ErrUnsupported) {
			t.Error(err)
		}
	case <-time.After(10 * time.Second):
		t.Fatal("it did not end")
	}
	if after := descriptors(t); after > before {
		t.Errorf("%d descriptors, %d before", after, before)
	}
}

func descriptors(t *testing.T) int {
	list, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(list)
}
