package network

import (
	"fmt"
	"os"
	"runtime"
	"strings"
	"sync"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// namespace is an open network namespace.
type namespace struct {
	fd   netns.NsHandle
	path string
}

func openNamespace(path string) (*namespace, error) {
	if path == "" {
		path = "/proc/self/ns/net"
	}
	fd, err := netns.GetFromPath(path)
	if err != nil {
		return nil, fmt.Errorf("open network namespace %s: %w", path, err)
	}
	return &namespace{fd: fd, path: path}, nil
}

func (s *namespace) Close() { _ = s.fd.Close() }

// netlink opens a route socket inside the namespace; a socket stays where it was made.
func (s *namespace) netlink(families ...int) (*netlink.Handle, error) {
	if len(families) == 0 {
		families = []int{unix.NETLINK_ROUTE}
	}
	var h *netlink.Handle
	err := s.do(func() (err error) {
		h, err = netlink.NewHandle(families...)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("netlink in %s: %w", s.path, err)
	}
	return h, nil
}

// do runs f on a thread that is in the namespace. The thread is given back only when it is surely home again;
// otherwise it dies with its goroutine, so that no other goroutine ever finds itself in a strange namespace.
func (s *namespace) do(f func() error) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		home, err := netns.Get()
		if err != nil {
			runtime.UnlockOSThread()
			done <- err
			return
		}
		defer func() { _ = home.Close() }()
		if err := netns.Set(s.fd); err != nil {
			runtime.UnlockOSThread()
			done <- fmt.Errorf("enter network namespace %s: %w", s.path, err)
			return
		}
		err = f()
		if netns.Set(home) == nil {
			runtime.UnlockOSThread()
		}
		done <- err
	}()
	return <-done
}

// sysctl writes a value under /proc/sys as the namespace sees it, if it is not there already.
func (s *namespace) sysctl(key, value string) error {
	return s.do(func() error {
		path := "/proc/sys/" + key
		if b, err := os.ReadFile(path); err == nil && strings.TrimSpace(string(b)) == value {
			return nil
		}
		if err := os.WriteFile(path, []byte(value), 0o644); err != nil {
			return fmt.Errorf("set sysctl %s=%s: %w", strings.ReplaceAll(key, "/", "."), value, err)
		}
		return nil
	})
}

// keyedMutex serialises work on one key while other keys go on.
type keyedMutex struct {
	mu   sync.Mutex
	busy map[string]chan struct{}
}

func (k *keyedMutex) lock(key string) (unlock func()) {
	for {
		k.mu.Lock()
		wait, ok := k.busy[key]
		if !ok {
			if k.busy == nil {
				k.busy = map[string]chan struct{}{}
			}
			c := make(chan struct{})
			k.busy[key] = c
			k.mu.Unlock()
			return func() {
				k.mu.Lock()
				delete(k.busy, key)
				k.mu.Unlock()
				close(c)
			}
		}
		k.mu.Unlock()
		<-wait
	}
}
