// Package env computes what a container's process is given by name: environment variables, expanded command and
// arguments, and the fields and resources of its pod (also for downward API volumes). Pure: objects come through Source.
package env
