// Package customresource accepts the names of CustomResourceDefinitions, has their kinds served, and deletes the objects of
// those that are being deleted. What Kubernetes does in five controllers of its API server is one here: each step begins
// when the one before is written down.
package customresource
