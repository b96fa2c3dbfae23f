//go:build e2e

package e2e

import (
	"fmt"
	"io"
	"os"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// terminal is a program at a terminal of its own, as a user's shell gives it one.
type terminal struct {
	*running
	master *os.File
}

// startAtTerminal starts a program at a terminal of this size (pty(7)).
func startAtTerminal(t testing.TB, c cli, rows, columns uint16, args ...string) *terminal {
	t.Helper()
	master, slave, err := openTerminal()
	if err != nil {
		t.Fatal(err)
	}
	term := &terminal{master: master}
	term.resize(t, rows, columns)
	r := prepare(t, c, args...)
	r.cmd.Stdin, r.cmd.Stdout, r.cmd.Stderr = slave, slave, slave
	// Only a program whose controlling terminal it is hears of new sizes.
	r.cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
	r.begin(t)
	slave.Close()
	term.running = r
	read := make(chan struct{})
	go func() {
		defer close(read)
		_, _ = io.Copy(r, master) // ends with EIO when the last program has left the terminal
	}()
	t.Cleanup(func() {
		<-r.ended
		<-read
		master.Close()
	})
	return term
}

func openTerminal() (master, slave *os.File, err error) {
	fd, err := unix.Open("/dev/ptmx", unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, nil, err
	}
	master = os.NewFile(uintptr(fd), "/dev/ptmx")
	n, err := unix.IoctlGetInt(fd, unix.TIOCGPTN)
	if err == nil {
		err = unix.IoctlSetPointerInt(fd, unix.TIOCSPTLCK, 0)
	}
	if err == nil {
		slave, err = os.OpenFile(fmt.Sprintf("/dev/pts/%d", n), os.O_RDWR|unix.O_NOCTTY, 0)
	}
	if err != nil {
		master.Close()
	}
	return master, slave, err
}

func (t *terminal) resize(tb testing.TB, rows, columns uint16) {
	tb.Helper()
	if err := unix.IoctlSetWinsize(int(t.master.Fd()), unix.TIOCSWINSZ, &unix.Winsize{Row: rows, Col: columns}); err != nil {
		tb.Fatal(err)
	}
}

// enter types a line.
func (t *terminal) enter(tb testing.TB, line string) {
	tb.Helper()
	if _, err := t.master.WriteString(line + "\r"); err != nil {
		tb.Fatal(err)
	}
}
