package runtime

import (
	"archive/tar"
	"context"
	"io"
)

// Visit takes one file of an image. content is there for regular files, until Visit returns.
type Visit func(h *tar.Header, content io.Reader) error

// Exporter is what a runtime can do with the files of an image beside running them.
type Exporter interface {
	// ExportImage shows each file of an image as its layers together have it, a directory before what is in it, and the root
	// as ".". What the engine would put into a container of it is left out. Names are clean and relative to the root, as are
	// the targets of hard links. ErrNotFound when there is no such image; an error of visit ends it and is returned.
	ExportImage(ctx context.Context, id string, visit Visit) error
}
