// Package server is the HTTP side of the Kubernetes API: routes, content negotiation, discovery, OpenAPI, and the verbs
// get, list, watch, create, update, patch, apply, delete and deletecollection, on the kinds that api/resource describes and a
// Backend keeps. It knows no store and no kind by name (but for the few subresources that are verbs of their own).
//
// Errors travel up as Go errors and become metav1.Status in one place, writeError. An option that changes what a
// request promises is served or refused, never dropped.
package server
