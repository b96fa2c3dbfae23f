package main

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// machine describes where the figures were taken.
func machine(ctx context.Context, dir string) string {
	var uts unix.Utsname
	_ = unix.Uname(&uts)
	var info unix.Sysinfo_t
	_ = unix.Sysinfo(&info)
	model := "unknown processor"
	if data, err := os.ReadFile("/proc/cpuinfo"); err == nil {
		if _, rest, ok := strings.Cut(string(data), "model name\t: "); ok {
			model, _, _ = strings.Cut(rest, "\n")
		}
	}
	rate, err := syncRate(ctx, dir)
	disk := fmt.Sprintf("%s syncs/s of 4 KB", figure(rate))
	if err != nil {
		disk = err.Error()
	}
	return fmt.Sprintf("Machine: %d cores (%s), %.0f GB, Linux %s, %s; disk: %s; load %s.",
		runtime.NumCPU(), strings.TrimSpace(model), float64(info.Totalram)*float64(info.Unit)/(1<<30),
		bytes.TrimRight(uts.Release[:], "\x00"), runtime.Version(), disk, loadAverage())
}

// syncRate is how many small writes a second the disk takes for good, one after
// the other.
func syncRate(ctx context.Context, dir string) (float64, error) {
	f, err := os.Create(filepath.Join(dir, "sync"))
	if err != nil {
		return 0, err
	}
	defer os.Remove(f.Name())
	defer f.Close()
	page := make([]byte, 4096)
	began, n := time.Now(), 0
	for ; time.Since(began) < time.Second && ctx.Err() == nil; n++ {
		if _, err := f.WriteAt(page, int64(n%256)*int64(len(page))); err != nil {
			return 0, err
		}
		if err := unix.Fdatasync(int(f.Fd())); err != nil {
			return 0, err
		}
	}
	return float64(n) / time.Since(began).Seconds(), nil
}

func loadAverage() string {
	data, err := os.ReadFile("/proc/loadavg")
	if err != nil {
		return "unknown"
	}
	load, _, _ := strings.Cut(string(data), " ")
	return load
}

// busy is how much of all processors is in use over a while, in percent.
func busy(ctx context.Context, over time.Duration) float64 {
	idle0, total0 := processors()
	wait(ctx, over)
	idle1, total1 := processors()
	if total1 <= total0 {
		return 0
	}
	return 100 * (1 - (idle1-idle0)/(total1-total0))
}

// processors reads the first line of /proc/stat: see proc(5).
func processors() (idle, total float64) {
	data, err := os.ReadFile("/proc/stat")
	if err != nil {
		return 0, 0
	}
	line, _, _ := strings.Cut(string(data), "\n")
	for i, word := range strings.Fields(line)[1:] {
		v, err := strconv.ParseFloat(word, 64)
		if err != nil || i >= 8 { // guests are counted in "user" already
			break
		}
		total += v
		if i == 3 || i == 4 { // idle, waiting for a disk
			idle += v
		}
	}
	return idle, total
}

// wait sleeps, unless everything is to end.
func wait(ctx context.Context, d time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
}

// memory of a process.
type memory struct{ rss, anon float64 } // MB

func (m memory) String() string { return fmt.Sprintf("%.1f MB of it its own", m.anon) }

// resident reads how much memory a process has, and how much of that is not the
// program's file, which the kernel can drop.
func resident(pid int) (memory, error) {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return memory{}, err
	}
	var m memory
	for line := range strings.Lines(string(data)) {
		words := strings.Fields(line)
		if len(words) < 2 {
			continue
		}
		kb, _ := strconv.ParseFloat(words[1], 64)
		switch words[0] {
		case "VmRSS:":
			m.rss = kb / 1024
		case "RssAnon:":
			m.anon = kb / 1024
		}
	}
	if m.rss == 0 {
		return m, fmt.Errorf("process %d has ended", pid)
	}
	return m, nil
}

// processorTime of a process so far, in ticks of 10 ms (USER_HZ is 100 on every
// platform that Docker runs on).
func processorTime(pid int) (time.Duration, error) {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, err
	}
	// Behind the name, which may hold anything, in parentheses.
	words := strings.Fields(string(data[bytes.LastIndexByte(data, ')')+1:]))
	if len(words) < 13 {
		return 0, fmt.Errorf("/proc/%d/stat cannot be read", pid)
	}
	user, err1 := strconv.ParseInt(words[11], 10, 64)
	system, err2 := strconv.ParseInt(words[12], 10, 64)
	if err1 != nil || err2 != nil {
		return 0, fmt.Errorf("/proc/%d/stat cannot be read", pid)
	}
	return time.Duration(user+system) * 10 * time.Millisecond, nil
}

// load is how much of one core each process uses over a while, in percent.
func load(ctx context.Context, over time.Duration, pids ...int) ([]float64, error) {
	before := make([]time.Duration, len(pids))
	for i, pid := range pids {
		var err error
		if before[i], err = processorTime(pid); err != nil {
			return nil, err
		}
	}
	began := time.Now()
	wait(ctx, over)
	used := make([]float64, len(pids))
	for i, pid := range pids {
		after, err := processorTime(pid)
		if err != nil {
			return nil, err
		}
		used[i] = 100 * float64(after-before[i]) / float64(time.Since(began))
	}
	return used, ctx.Err()
}
