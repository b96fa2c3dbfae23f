// Package runtimetest is the contract of runtime.Engine as a test suite. It passes on fake, in virtual time, and on
// Docker, with real containers of an image that has a busybox shell.
//
// It waits by events, never by sleeping, and knows nothing about either implementation.
package runtimetest
