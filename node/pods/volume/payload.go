package volume

import (
	"fmt"
	"path"

	corev1 "k8s.io/api/core/v1"

	"github.com/whalepod/whalepod/node/pods/env"
)

// file to be in a volume.
type file struct {
	data []byte
	mode int32
	// owner is a user ID; nil for root.
	owner *int64
}

// payload of a volume by relative path.
type payload map[string]file

const defaultMode = 0o644

func modeOf(m *int32, fallback int32) int32 {
	if m != nil {
		return *m
	}
	return fallback
}

func isTrue(b *bool) bool { return b != nil && *b }

// addKeys puts the keys of a ConfigMap or Secret into the payload: all, or those that items name.
func (p payload) addKeys(get func(key string) ([]byte, bool), keys []string, items []corev1.KeyToPath, mode int32, optional bool, absent string) error {
	if len(items) == 0 {
		for _, k := range keys {
			data, _ := get(k)
			p[k] = file{data: data, mode: mode}
		}
		return nil
	}
	for _, item := range items {
		data, ok := get(item.Key)
		if !ok {
			if optional {
				continue
			}
			return fmt.Errorf("%s: %s", absent, item.Key)
		}
		p[path.Clean(item.Path)] = file{data: data, mode: modeOf(item.Mode, mode)}
	}
	return nil
}

func (p payload) addConfigMap(src Source, namespace, name string, items []corev1.KeyToPath, mode int32, optional bool) error {
	cm, ok := src.ConfigMap(namespace, name)
	if !ok {
		if optional {
			return nil
		}
		return fmt.Errorf("configmap %q not found", name)
	}
	keys := make([]string, 0, len(cm.Data)+len(cm.BinaryData))
	for k := range cm.Data {
		keys = append(keys, k)
	}
	for k := range cm.BinaryData {
		keys = append(keys, k)
	}
	return p.addKeys(func(k string) ([]byte, bool) {
		if s, ok := cm.Data[k]; ok {
			return []byte(s), true
		}
		b, ok := cm.BinaryData[k]
		return b, ok
	}, keys, items, mode, optional, "configmap references non-existent config key")
}

func (p payload) addSecret(src Source, namespace, name string, items []corev1.KeyToPath, mode int32, optional bool) error {
	secret, ok := src.Secret(namespace, name)
	if !ok {
		if optional {
			return nil
		}
		return fmt.Errorf("secret %q not found", name)
	}
	keys := make([]string, 0, len(secret.Data))
	for k := range secret.Data {
		keys = append(keys, k)
	}
	return p.addKeys(func(k string) ([]byte, bool) { b, ok := secret.Data[k]; return b, ok },
		keys, items, mode, optional, "references non-existent secret key")
}

func (p payload) addDownward(pod *corev1.Pod, items []corev1.DownwardAPIVolumeFile, mode int32, facts env.Facts) error {
	for _, item := range items {
		var value string
		var err error
		switch {
		case item.FieldRef != nil:
			value, err = env.Field(pod, item.FieldRef.FieldPath, facts)
		case item.ResourceFieldRef != nil:
			value, err = env.Resource(pod, nil, item.ResourceFieldRef, facts)
		}
		if err != nil {
			return err
		}
		p[path.Clean(item.Path)] = file{data: []byte(value), mode: modeOf(item.Mode, mode)}
	}
	return nil
}
