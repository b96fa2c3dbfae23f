package quickjson

import (
	"reflect"
	"unsafe"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// Memo is for writing many objects one after the other that may share parts in memory, as replicas in the store do: such
// a part is written once and copied from then on. It must not be used by two at a time, nor when objects change
// meanwhile. The zero Memo is ready.
type Memo struct{ last [memoSlots]memory }

// memory is how a slice was written last. Holding the array keeps it from being used for another.
type memory struct {
	array unsafe.Pointer
	n     int
	text  []byte
}

const memoSlots = 4

// remembered are the types worth it: large, and the same in all pods of a template.
var remembered = map[reflect.Type]int{
	reflect.TypeFor[[]corev1.Container]():      0,
	reflect.TypeFor[[]corev1.Volume]():         1,
	reflect.TypeFor[[]corev1.Toleration]():     2,
	reflect.TypeFor[[]metav1.OwnerReference](): 3,
}

// remember wraps the appender of a slice type.
func remember(slot int, fn appender) appender {
	return func(b []byte, v reflect.Value, memo *Memo) ([]byte, error) {
		if memo == nil || v.Len() == 0 {
			return fn(b, v, memo)
		}
		last := &memo.last[slot]
		array, n := v.UnsafePointer(), v.Len()
		if last.array == array && last.n == n {
			return append(b, last.text...), nil
		}
		start := len(b)
		b, err := fn(b, v, memo)
		if err == nil {
			*last = memory{array, n, append(last.text[:0], b[start:]...)}
		}
		return b, err
	}
}
