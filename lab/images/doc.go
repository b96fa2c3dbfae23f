// Package images makes the container images that the lab's engines pull, and
// keeps them in the storage directory of an image registry.
//
// The images stand in for those of Docker Hub: built from the packages of the
// Debian (or Ubuntu) machine they are made on, they answer to the same names and
// the same environment variables, so that manifests which people paste run word
// for word where no registry can be reached. Where Docker Hub can be reached,
// [Copy] takes the real ones instead.
//
// Layers are named by what they are made from, so a changed recipe rebuilds only
// itself and what stands on it. The package needs root (overlay mounts, chroot),
// starts no daemon, and must not know anything of the cluster.
package images
