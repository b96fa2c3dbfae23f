package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

// An agent that was killed has its directory until the last of its threads, and of the programs that it was about to start,
// is gone: one that is started at once waits for that.
const (
	lockPatience = 5 * time.Second
	lockRetry    = 20 * time.Millisecond
)

// lock keeps a second agent off the same directory.
func lock(ctx context.Context, dir string) (unlock func(), err error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	path := filepath.Join(dir, "lock")
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, lockPatience)
	defer cancel()
	for {
		err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if err == nil {
			return func() { f.Close() }, nil
		}
		if !errors.Is(err, unix.EWOULDBLOCK) {
			f.Close()
			return nil, fmt.Errorf("%s: %w", path, err)
		}
		select {
		case <-time.After(lockRetry):
		case <-ctx.Done():
			f.Close()
			return nil, fmt.Errorf("another wp-agent uses %s: stop it first, or give this one another --data-dir", dir)
		}
	}
}

// nodeIP is the given address, or the one that packets to the master leave from. No packet is sent: connecting a UDP socket
// only asks the routing table.
func nodeIP(given, master string) (netip.Addr, error) {
	if given != "" {
		a, err := netip.ParseAddr(given)
		if err != nil {
			return a, fmt.Errorf("--node-ip: %w", err)
		}
		return a, nil
	}
	c, err := net.Dial("udp4", master)
	if err != nil {
		return netip.Addr{}, fmt.Errorf("no route to the master at %s: %w; say with --node-ip which address the other machines reach this one at", master, err)
	}
	defer c.Close()
	ip := c.LocalAddr().(*net.UDPAddr).AddrPort().Addr()
	if ip.IsLoopback() {
		return netip.Addr{}, fmt.Errorf("the master is at %s, so this machine's own address cannot be told from it; say with --node-ip which address the other machines reach this one at", master)
	}
	return ip, nil
}

// oomScore is the kubelet's for itself: when memory runs out, the kernel takes everything else first. Who is to make room
// must not be the one who goes.
const oomScore = "-999"

// protect the agent from the kernel's killer. It takes CAP_SYS_RESOURCE, which some containers' root lacks.
func protect(proc string) error {
	return os.WriteFile(filepath.Join(proc, "self", "oom_score_adj"), []byte(oomScore), 0)
}
