package meter

import (
	"os"
	"path/filepath"
	"testing"
)

// FuzzProc: the files of /proc that a node's state is read from, in any form.
func FuzzProc(f *testing.F) {
	f.Add("MemTotal: 1024 kB\nMemAvailable: 512 kB\nSwapFree: 1 kB\n", "0.20 0.18 0.12 1/80 11206\n", "some avg10=0.00\nfull avg10=1.50 avg60=0.00\n")
	f.Add("MemTotal:\nMemFree: x\n:\n", "a b c d", "full avg10=NaN ")
	f.Add("MemTotal: 9223372036854775807 kB", "1 2 3 /", "")
	f.Fuzz(func(t *testing.T, meminfo, loadavg, stalls string) {
		proc := t.TempDir()
		for name, text := range map[string]string{"meminfo": meminfo, "loadavg": loadavg, "pressure/memory": stalls, "sys/kernel/pid_max": "32768\n"} {
			path := filepath.Join(proc, name)
			if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		m := at(proc, t.TempDir())
		_, _ = m.Memory()
		if o, err := m.PIDs(); err == nil && o.Capacity != 32768 {
			t.Errorf("%+v", o)
		}
	})
}
