package lean

import (
	"bufio"
	"context"
	"io"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// every so often; with nothing mapped since, it costs about a millisecond.
const every = time.Minute

// Keep gives memory back that the program does not need, until ctx ends: pages of
// its own file now and then, and of the heap when it has come to rest. The former
// stay in the page cache while nobody else needs the memory, and what is in use
// comes back by itself, 16 pages at a fault: some milliseconds in all.
func Keep(ctx context.Context) {
	var heap sync.WaitGroup
	defer heap.Wait()
	heap.Go(func() { keepHeap(ctx) })
	t := time.NewTicker(every)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-t.C:
			release()
		}
	}
}

// release unmaps them. Failing is no harm, so nobody is told.
func release() {
	exe, err := os.Readlink("/proc/self/exe")
	if err != nil {
		return
	}
	f, err := os.Open("/proc/self/smaps")
	if err != nil {
		return
	}
	defer f.Close()
	for _, m := range clean(f, exe) {
		_, _, _ = unix.Syscall(unix.SYS_MADVISE, m.start, m.end-m.start, unix.MADV_DONTNEED)
	}
}

type mapping struct{ start, end uintptr }

// clean reads smaps (see proc(5)) and returns the mappings of a file that hold
// nothing but the file: not writable, and without a page of their own, as a
// dynamic linker's relocations or a debugger's breakpoints are.
func clean(smaps io.Reader, path string) []mapping {
	var found []mapping
	var current mapping
	ours := false
	lines := bufio.NewScanner(smaps)
	for lines.Scan() {
		line := lines.Text()
		if name, value, ok := strings.Cut(line, ":"); ok && !strings.Contains(name, " ") {
			if ours && name == "Anonymous" {
				if strings.TrimSpace(value) == "0 kB" {
					found = append(found, current)
				}
				ours = false
			}
			continue
		}
		// address perms offset dev inode path
		words := strings.SplitN(line, " ", 3)
		ours = len(words) == 3 && len(words[1]) == 4 && words[1][1] == '-' && words[1][3] == 'p' && strings.HasSuffix(words[2], " "+path)
		if !ours {
			continue
		}
		from, to, _ := strings.Cut(words[0], "-")
		start, err1 := strconv.ParseUint(from, 16, 64)
		end, err2 := strconv.ParseUint(to, 16, 64)
		ours = err1 == nil && err2 == nil && end > start
		current = mapping{uintptr(start), uintptr(end)}
	}
	if lines.Err() != nil {
		return nil
	}
	return found
}
