// Package image gets images onto the node for pods: pull policies, one pull shared by all who want the same image, a
// bound on pulls at a time, back-off after failures, registry credentials, and all of it in the kubelet's words.
package image
