// Package lean keeps small what a program occupies while it has little to do.
//
// The programs carry Kubernetes' API types, and starting them touches most of
// their file: every package's initialisation, tables of types, the code that
// reads the state. Little of that is needed again, yet the pages stay mapped, and
// the kernel holds mapped pages of programs longer than others. On a server with
// 1 GB that is memory the pods do not get.
//
// The heap is much the same: what a burst of work took is given back only when
// there is more work. See keepHeap and Limit.
package lean
