package volume

import (
	"fmt"
	"reflect"
	"strings"

	corev1 "k8s.io/api/core/v1"
)

// unsupported says in words why a volume cannot be had, and what to use.
func unsupported(v *corev1.Volume) error {
	s := v.VolumeSource
	switch {
	case s.GCEPersistentDisk != nil, s.AWSElasticBlockStore != nil, s.AzureDisk != nil, s.AzureFile != nil, s.VsphereVolume != nil, s.Cinder != nil, s.PortworxVolume != nil:
		return fmt.Errorf("%s is a cloud vendor's own disk and this node is not in that cloud; use hostPath, emptyDir or nfs", sourceName(s))
	}
	return fmt.Errorf("no volume plugin matched: %s volumes are not supported on this node", sourceName(s))
}

// sourceName is the source's name as in the manifest.
func sourceName(s corev1.VolumeSource) string {
	v := reflect.ValueOf(s)
	for i := range v.NumField() {
		if f := v.Field(i); f.Kind() == reflect.Pointer && !f.IsNil() {
			name, _, _ := strings.Cut(v.Type().Field(i).Tag.Get("json"), ",")
			return name
		}
	}
	return "empty"
}
