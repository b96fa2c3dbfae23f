package main

import (
	"context"
	"path/filepath"
	"strings"
	"testing"
)

func TestLock(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "agent")
	first, err := lock(t.Context(), dir)
	if err != nil {
		t.Fatal(err)
	}
	hurried, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := lock(hurried, dir); err == nil || !strings.Contains(err.Error(), "another wp-agent uses "+dir) {
		t.Errorf("a second agent: %v", err)
	}
	// One that comes while the first is ending gets in.
	type result struct {
		unlock func()
		err    error
	}
	second := make(chan result, 1)
	go func() {
		unlock, err := lock(t.Context(), dir)
		second <- result{unlock, err}
	}()
	first()
	got := <-second
	if got.err != nil {
		t.Fatal(got.err)
	}
	got.unlock()
}
