package volume

import (
	"bytes"
	"os"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Mounter is what this package asks of the kernel.
type Mounter interface {
	// Tmpfs mounts memory of at most size bytes (0: the kernel's half of RAM) on dir.
	Tmpfs(dir string, size int64) error
	// Bind makes target show what the open file is, whatever path it has.
	Bind(f *os.File, target string) error
	// Unmount takes away whatever is mounted on dir, when its last user is gone.
	Unmount(dir string) error
	// Below lists what is mounted at or below dir.
	Below(dir string) ([]string, error)
}

// Kernel is the Mounter that mounts.
type Kernel struct{}

// Tmpfs implements Mounter.
func (Kernel) Tmpfs(dir string, size int64) error {
	data := "mode=0777"
	if size > 0 {
		data += ",size=" + strconv.FormatInt(size, 10)
	}
	return unix.Mount("tmpfs", dir, "tmpfs", 0, data)
}

// Bind implements Mounter.
func (Kernel) Bind(f *os.File, target string) error {
	return unix.Mount("/proc/self/fd/"+strconv.Itoa(int(f.Fd())), target, "", unix.MS_BIND|unix.MS_REC, "")
}

// Unmount implements Mounter.
func (Kernel) Unmount(dir string) error {
	return unix.Unmount(dir, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW)
}

// Below implements Mounter.
func (Kernel) Below(dir string) ([]string, error) {
	data, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return nil, err
	}
	return parseMountinfo(data, dir), nil
}

// parseMountinfo lists the mount points at or below dir, deepest first. The format is in proc_pid_mountinfo(5): the
// fifth field, with blanks written in octal.
func parseMountinfo(data []byte, dir string) []string {
	var out []string
	for line := range bytes.Lines(data) {
		fields := strings.Fields(string(line))
		if len(fields) < 5 {
			continue
		}
		point := unescape(fields[4])
		if point == dir || strings.HasPrefix(point, dir+"/") {
			out = append(out, point)
		}
	}
	slices.Reverse(out) // mounted last, unmounted first
	return out
}

func unescape(s string) string {
	if !strings.Contains(s, `\`) {
		return s
	}
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] == '\\' && i+3 < len(s) {
			if n, err := strconv.ParseUint(s[i+1:i+4], 8, 8); err == nil {
				b.WriteByte(byte(n))
				i += 3
				continue
			}
		}
		b.WriteByte(s[i])
	}
	return b.String()
}
