// Package volume keeps the volumes of pods on this node's disk: it makes them, fills and updates those that come from
// the API, and removes them when the pod is gone. Containers see them through the paths it returns.
//
// Paths inside a volume belong to the pod's processes, which may put symlinks anywhere; so whatever this package does
// inside one goes through os.Root, which does not follow a link out of it.
package volume
