package master

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"
)

// FuzzBackup: a file that is taken for a backup. What is read of it lies in it, and a state that cannot be one is not put in
// place.
func FuzzBackup(f *testing.F) {
	whole := func(state, identity string) []byte {
		var b bytes.Buffer
		b.WriteString(state)
		_ = writeIdentity(&b, []byte(identity))
		return b.Bytes()
	}
	good := whole("state", "identity")
	f.Add(good)
	f.Add(good[1:])
	f.Add(good[:len(good)-1])
	f.Add(whole("", ""))
	f.Add([]byte(identityMark))
	f.Add([]byte("\xff\xff\xff\xff\xff\xff\xff\xff" + identityMark))
	f.Add([]byte("\x00\x00\x00\x00\x00\x10\x00\x00" + identityMark))
	f.Fuzz(func(t *testing.T, data []byte) {
		dir := t.TempDir()
		backup := filepath.Join(dir, "backup")
		if err := os.WriteFile(backup, data, 0o600); err != nil {
			t.Fatal(err)
		}
		file, err := os.Open(backup)
		if err != nil {
			t.Fatal(err)
		}
		defer file.Close()
		identity, before, err := readIdentity(file)
		switch {
		case err != nil:
			t.Error(err)
		case identity == nil && before != int64(len(data)):
			t.Errorf("no identity behind %d of %d bytes", before, len(data))
		case identity != nil && !bytes.Equal(append(bytes.Clone(data[:before]), whole("", string(identity))...), data):
			t.Errorf("identity %q behind %d bytes of %q", identity, before, data)
		}
		target := filepath.Join(dir, "data")
		if err := Restore(t.Context(), backup, target); err == nil && len(data) < os.Getpagesize() {
			t.Error("it was put in place")
		}
		if _, err := os.Stat(filepath.Join(target, storeFile)); err == nil && len(data) < os.Getpagesize() {
			t.Error("something was put in place")
		}
	})
}
