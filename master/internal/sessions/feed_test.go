package sessions

import (
	"fmt"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"

	"github.com/whalepod/whalepod/master/internal/registry"
)

// What is kept encoded is bounded in bytes: a few hundred ConfigMaps of a megabyte must not be.
func TestEncodingsAreBounded(t *testing.T) {
	var e encodings
	big := &corev1.ConfigMap{Data: map[string]string{"k": strings.Repeat("x", 1<<20)}}
	for i := range 20 {
		big.Name, big.ResourceVersion = fmt.Sprint(i%10), fmt.Sprint(i)
		k := registry.Key{Resource: "configmaps", Namespace: "default", Name: big.Name}
		data, err := e.encode(k, big)
		if err != nil {
			t.Fatal(err)
		}
		if again, _ := e.encode(k, big); &again[0] != &data[0] {
			t.Fatal("encoded twice")
		}
		kept := 0
		for _, c := range e.cache {
			kept += len(c.data)
		}
		if kept > encodingBytes || kept != e.bytes {
			t.Fatalf("%d bytes kept, %d counted", kept, e.bytes)
		}
	}
}
