// Package examples holds the manifests that users copy, for programs that show
// them: the demo applies the same files that are read here.
package examples

import "embed"

// Files are the manifests, by their file names.
//
//go:embed *.yml
var Files embed.FS
