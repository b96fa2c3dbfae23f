// Package endpoints says, for each Service, which pods are behind it: as Endpoints and as EndpointSlices. EndpointSlices of
// Services without a selector mirror the Endpoints that somebody wrote by hand.
//
// It writes: Endpoints and EndpointSlices that it has made itself. source.go, subsets.go and slices.go are pure;
// controller.go does the work. A change of a pod costs work only for Services of its namespace whose selector matches
// it, and of a Service's slices only those are written in which something changed.
package endpoints
