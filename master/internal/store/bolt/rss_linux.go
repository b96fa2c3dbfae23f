package bolt

import (
	"syscall"

	"go.etcd.io/bbolt"
)

// dropPages gives back the memory of the file's map: opening has read it from end to end, and writing reads it here and
// there. The pages stay in the kernel's cache, counted as nobody's.
func dropPages(db *bbolt.DB) {
	info := db.Info()
	var size int64
	_ = db.View(func(btx *bbolt.Tx) error { size = btx.Size(); return nil })
	if size > 0 {
		// An optimisation: without it only the resident size is larger.
		_, _, _ = syscall.Syscall(syscall.SYS_MADVISE, info.Data, uintptr(size), syscall.MADV_DONTNEED)
	}
}
