package docker

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/maphash"
	"io"
	"slices"

	"github.com/docker/docker/pkg/stdcopy"
)

const (
	frameHeader = 8
	// maxFrame bounds one message of a log; engines cut lines at 16 KB.
	maxFrame = 16 << 20
	// rewindMost is how many messages back an engine may start again; it reads its files in pieces of some 10 KB.
	rewindMost = 2048
)

// frames copies a log that comes with timestamps, and makes two things right that stdcopy cannot know of. An engine that
// is followed over the rotation of its file goes back to lines that it has sent already (seen with 20.10: the last line
// of the old file, or a few). And a line longer than 16 KB, which is several messages, gets a timestamp in front of
// each, where the kubelet writes one.
type frames struct {
	stdout, stderr io.Writer
	timestamps     bool

	// By stream: the newest timestamp, and whether the next message goes on with a line.
	newest [3][]byte
	middle [3]bool
	// sent are hashes of the last messages, which tell a repetition from a clock that was set back.
	seed  maphash.Seed
	sent  []uint64
	count int
}

func (f *frames) copy(r io.Reader) error {
	in := bufio.NewReader(r)
	f.seed = maphash.MakeSeed()
	var header [frameHeader]byte
	var message []byte
	for {
		if _, err := io.ReadFull(in, header[:]); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return err
		}
		size := binary.BigEndian.Uint32(header[4:])
		if size > maxFrame {
			return fmt.Errorf("the engine sent a log message of %d bytes", size)
		}
		if need := int(size) + 1; cap(message) < need {
			message = make([]byte, need)
		}
		message = message[:size+1]
		message[0] = header[0]
		if _, err := io.ReadFull(in, message[1:]); err != nil {
			return err
		}
		if err := f.one(message); err != nil {
			return err
		}
	}
}

// one message: the number of its stream, its timestamp, a blank, its text.
func (f *frames) one(message []byte) error {
	out := f.stdout
	stream := stdcopy.StdType(message[0])
	switch stream {
	case stdcopy.Stdin, stdcopy.Stdout:
	case stdcopy.Stderr:
		out = f.stderr
	case stdcopy.Systemerr:
		return fmt.Errorf("error from daemon in stream: %s", message[1:])
	default:
		return fmt.Errorf("the engine sent a log message of an unknown stream %d", stream)
	}
	stamp, text, ok := bytes.Cut(message[1:], []byte(" "))
	if !ok {
		return fmt.Errorf("the engine sent a log message without a timestamp: %q", message[1:min(len(message), 80)])
	}
	whole := bytes.HasSuffix(text, []byte("\n"))
	if f.repeats(int(stream), message, stamp, whole) {
		return nil
	}
	if f.timestamps && !f.middle[stream] {
		text = message[1:]
	}
	f.middle[stream] = !whole
	n, err := out.Write(text)
	if err == nil && n < len(text) {
		err = io.ErrShortWrite
	}
	return err
}

// repeats tells whether a message was sent before. Its timestamp is then no news: those of a stream only grow, but for a
// clock that is set back, and the parts of a line have the same.
func (f *frames) repeats(stream int, message, stamp []byte, whole bool) bool {
	hash := maphash.Bytes(f.seed, message)
	order := bytes.Compare(stamp, f.newest[stream])
	if (order < 0 || order == 0 && (whole || !f.middle[stream])) && slices.Contains(f.sent, hash) {
		return true
	}
	if order > 0 {
		f.newest[stream] = append(f.newest[stream][:0], stamp...)
	}
	if len(f.sent) < rewindMost {
		f.sent = append(f.sent, hash)
	} else {
		f.sent[f.count%rewindMost] = hash
	}
	f.count++
	return false
}
