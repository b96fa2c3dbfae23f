// Package version says which build this is; the Makefile sets it through the linker.
package version

// Set with -ldflags "-X".
var (
	Version   = "dev"
	Commit    = ""
	BuildDate = ""
)

// kubernetes is the release of Kubernetes whose API we serve: that of k8s.io/kubernetes in go.mod.
const kubernetes = "v1.36.3"

// Kubernetes is the version that the API tells clients, as other distributions do: Kubernetes' own, with ours behind.
func Kubernetes() string { return kubernetes + "+whalepod-" + Version }
