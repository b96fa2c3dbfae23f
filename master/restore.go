package master

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/whalepod/whalepod/master/internal/pki"
	"github.com/whalepod/whalepod/master/internal/store/bolt"
)

// A backup is the store's file with the cluster's identity behind it: its bytes, their number (8 bytes, big endian) and
// this mark. Behind, so that the number of the store's bytes need not be known before they are written.
const identityMark = "WPIDENT1"

const (
	trailerSize = 8 + len(identityMark)
	// An identity is a few KB; a number beyond this is not one.
	maxIdentity = 1 << 20
)

func writeIdentity(w io.Writer, identity []byte) error {
	out := binary.BigEndian.AppendUint64(identity[:len(identity):len(identity)], uint64(len(identity)))
	_, err := w.Write(append(out, identityMark...))
	return err
}

// readIdentity finds the identity at the end of a backup, and how many bytes stand before it. A copy of the store's file
// alone has none.
func readIdentity(f *os.File) (identity []byte, before int64, err error) {
	info, err := f.Stat()
	if err != nil {
		return nil, 0, err
	}
	size := info.Size()
	if size < int64(trailerSize) {
		return nil, size, nil
	}
	trailer := make([]byte, trailerSize)
	if _, err := f.ReadAt(trailer, size-int64(trailerSize)); err != nil {
		return nil, 0, err
	}
	n := binary.BigEndian.Uint64(trailer)
	if string(trailer[8:]) != identityMark || n > maxIdentity || int64(n) > size-int64(trailerSize) {
		return nil, size, nil
	}
	before = size - int64(trailerSize) - int64(n)
	identity = make([]byte, n)
	_, err = f.ReadAt(identity, before)
	return identity, before, err
}

// Restore puts a backup in place of the (missing) state below dataDir, and the cluster's identity unless there is one.
func Restore(ctx context.Context, backup, dataDir string) error {
	f, err := os.Open(backup)
	if err != nil {
		return fmt.Errorf("backup: %w", err)
	}
	defer f.Close()
	identity, before, err := readIdentity(f)
	if err != nil {
		return fmt.Errorf("backup %s: %w", backup, err)
	}
	target := filepath.Join(dataDir, storeFile)
	if identity == nil {
		if before%int64(os.Getpagesize()) != 0 {
			return fmt.Errorf("the backup %s cannot be used: its end is missing. Nothing was put in place", backup)
		}
		return bolt.Restore(ctx, backup, target)
	}
	if err := os.MkdirAll(dataDir, 0o700); err != nil {
		return err
	}
	state, err := os.CreateTemp(dataDir, filepath.Base(backup)+".state.*")
	if err != nil {
		return err
	}
	defer os.Remove(state.Name())
	_, err = io.Copy(state, io.NewSectionReader(f, 0, before))
	if err := errors.Join(err, state.Close()); err != nil {
		return fmt.Errorf("backup %s: %w", backup, err)
	}
	if err := bolt.Restore(ctx, state.Name(), target); err != nil {
		return fmt.Errorf("backup %s: %w", backup, err)
	}
	_, err = pki.Import(filepath.Join(dataDir, pkiDir), identity)
	return err
}
