package lean

import (
	"runtime"
	"runtime/debug"
	"runtime/metrics"
)

// Limit makes the collector keep the program's memory under so many bytes, for as long as what is alive leaves it room to work:
// with more alive the limit is raised to half as much again. A limit just above what is alive, or below, would have the
// collector run all the time: it took four fifths of a processor in a master of a thousand nodes that did nothing.
func Limit(bytes int64) {
	debug.SetMemoryLimit(bytes)
	follow(bytes)
}

// follow adjusts the limit after each collection: it is told by the end of an object that nothing refers to.
func follow(floor int64) {
	runtime.AddCleanup(&sentinel{}, func(floor int64) {
		adjust(floor)
		follow(floor)
	}, floor)
}

type sentinel struct{ _ [64]byte } // not one of those that share a block with others

func adjust(floor int64) {
	now := debug.SetMemoryLimit(-1)
	if want := limitFor(floor, alive(), now); want != now {
		debug.SetMemoryLimit(want)
	}
}

// alive is what the last collection found, and what the runtime has besides.
func alive() int64 {
	s := []metrics.Sample{{Name: "/gc/heap/live:bytes"}, {Name: "/memory/classes/heap/stacks:bytes"}, {Name: "/memory/classes/metadata/other:bytes"}}
	metrics.Read(s)
	var n int64
	for i := range s {
		if s[i].Value.Kind() == metrics.KindUint64 {
			n += int64(s[i].Value.Uint64())
		}
	}
	return n
}

// limitFor what is alive. Setting a limit stops the program for a moment: the one there is stays until it is an eighth off.
func limitFor(floor, alive, now int64) int64 {
	want := max(floor, alive+alive/2)
	if want != floor && now > want-want/8 && now < want+want/8 {
		return now
	}
	return want
}
