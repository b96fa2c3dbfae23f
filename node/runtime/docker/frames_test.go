package docker

import (
	"bytes"
	"encoding/binary"
	"strings"
	"testing"
)

// said is a log as the engine sends it; each message begins with the number of its stream.
func said(messages ...string) *bytes.Buffer {
	var b bytes.Buffer
	for _, m := range messages {
		header := [frameHeader]byte{m[0] - '0'}
		binary.BigEndian.PutUint32(header[4:], uint32(len(m)-1))
		b.Write(header[:])
		b.WriteString(m[1:])
	}
	return &b
}

func TestFrames(t *testing.T) {
	const t1, t2, t3 = "2026-01-02T03:04:05.000000001Z ", "2026-01-02T03:04:05.000000002Z ", "2026-01-02T03:04:05.000000003Z "
	part := strings.Repeat("x", 16384)
	log := []string{
		"1" + t1 + "one\n",
		"1" + t1 + "one\n", // again, as after a rotation
		"2" + t1 + "one\n",
		"1" + t2 + "one\n",
		"1" + t3 + part, "1" + t3 + part, "1" + t3 + "end\n",
		"1" + t2 + "one\n", "1" + t3 + part, "1" + t3 + "end\n", // back again
		"1" + t3 + "\n",
		"1" + t1 + "the clock was set back\n",
	}
	for _, c := range []struct {
		timestamps     bool
		stdout, stderr string
	}{
		{false, "one\none\n" + part + part + "end\n\nthe clock was set back\n", "one\n"},
		{true, t1 + "one\n" + t2 + "one\n" + t3 + part + part + "end\n" + t3 + "\n" + t1 + "the clock was set back\n", t1 + "one\n"},
	} {
		var stdout, stderr bytes.Buffer
		err := (&frames{stdout: &stdout, stderr: &stderr, timestamps: c.timestamps}).copy(said(log...))
		if err != nil || stdout.String() != c.stdout || stderr.String() != c.stderr {
			t.Errorf("timestamps %v: %v, %q, %q", c.timestamps, err, strings.ReplaceAll(stdout.String(), part, "…"), stderr.String())
		}
	}
	for name, in := range map[string]*bytes.Buffer{
		"cut off":        bytes.NewBufferString("\x01\x00\x00\x00\x00\x00\x00\x09short"),
		"cut off header": bytes.NewBufferString("\x01\x00"),
		"too big":        bytes.NewBufferString("\x01\x00\x00\x00\xff\xff\xff\xff"),
		"unknown stream": said("7" + t1 + "x"),
		"engine's error": said("3oh no"),
	} {
		if err := (&frames{stdout: &bytes.Buffer{}, stderr: &bytes.Buffer{}}).copy(in); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}

func FuzzFrames(f *testing.F) {
	f.Add(said("1t one\n", "2t two\n", "3x").Bytes(), true)
	f.Fuzz(func(_ *testing.T, data []byte, timestamps bool) {
		var out bytes.Buffer
		_ = (&frames{stdout: &out, stderr: &out, timestamps: timestamps}).copy(bytes.NewReader(data))
	})
}
