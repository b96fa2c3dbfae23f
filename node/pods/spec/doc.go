// Package spec translates a pod and its containers into what the engine is asked for: namespaces, users, rights and
// resources. Pure; paths, variables and images come from the caller.
package spec
