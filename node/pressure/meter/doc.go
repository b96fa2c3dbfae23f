// Package meter reads from the kernel how much memory, disk and process IDs are left, and how much the containers use. It reads
// files only: it asks no container engine and starts no program, so that it works, and costs next to nothing, also on
// a machine that is out of everything.
package meter
