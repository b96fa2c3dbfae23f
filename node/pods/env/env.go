package env

import (
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
)

// Source gives the objects that variables may come from. desired.State is one.
type Source interface {
	ConfigMap(namespace, name string) (*corev1.ConfigMap, bool)
	Secret(namespace, name string) (*corev1.Secret, bool)
	Services() []*corev1.Service
}

// Facts are what only the running node knows of a pod.
type Facts struct {
	PodIPs, HostIPs []string
	// Allocatable of the node, the default of resourceFieldRef limits.
	Allocatable corev1.ResourceList
}

// Variables returns the container's environment as NAME=value: service variables first, then envFrom, then env in
// their order, each name once. Its errors are the kubelet's words, for CreateContainerConfigError.
func Variables(pod *corev1.Pod, c *corev1.Container, src Source, facts Facts) ([]string, error) {
	services := serviceVariables(pod, src)
	own := newVars()
	if err := addFrom(own, pod, c, src); err != nil {
		return nil, err
	}
	lookup := func(name string) (string, bool) {
		if v, ok := own.get(name); ok {
			return v, true
		}
		return services.get(name)
	}
	for i := range c.Env {
		e := &c.Env[i]
		value := e.Value
		switch {
		case value != "":
			value = Expand(value, lookup)
		case e.ValueFrom != nil:
			v, ok, err := valueFrom(pod, c, e.ValueFrom, src, facts)
			if err != nil {
				return nil, err
			}
			if !ok {
				continue
			}
			value = v
		}
		own.set(e.Name, value)
	}
	out := make([]string, 0, len(services.names)+len(own.names))
	for _, name := range services.names {
		if _, ok := own.values[name]; !ok {
			out = append(out, name+"="+services.values[name])
		}
	}
	for _, name := range own.names {
		out = append(out, name+"="+own.values[name])
	}
	return out, nil
}

// vars is an ordered map.
type vars struct {
	names  []string
	values map[string]string
}

func newVars() *vars { return &vars{values: map[string]string{}} }

func (v *vars) set(name, value string) {
	if _, ok := v.values[name]; !ok {
		v.names = append(v.names, name)
	}
	v.values[name] = value
}

func (v *vars) get(name string) (string, bool) { s, ok := v.values[name]; return s, ok }

func optional(b *bool) bool { return b != nil && *b }

func missing(kind, name string) error { return fmt.Errorf("%s %q not found", kind, name) }

func addFrom(own *vars, pod *corev1.Pod, c *corev1.Container, src Source) error {
	for _, from := range c.EnvFrom {
		switch {
		case from.ConfigMapRef != nil:
			ref := from.ConfigMapRef
			cm, ok := src.ConfigMap(pod.Namespace, ref.Name)
			if !ok {
				if optional(ref.Optional) {
					continue
				}
				return missing("configmap", ref.Name)
			}
			for _, k := range sortedKeys(cm.Data) {
				own.set(from.Prefix+k, cm.Data[k])
			}
		case from.SecretRef != nil:
			ref := from.SecretRef
			secret, ok := src.Secret(pod.Namespace, ref.Name)
			if !ok {
				if optional(ref.Optional) {
					continue
				}
				return missing("secret", ref.Name)
			}
			for _, k := range sortedKeys(secret.Data) {
				own.set(from.Prefix+k, string(secret.Data[k]))
			}
		}
	}
	return nil
}

func sortedKeys[V any](m map[string]V) []string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}

// valueFrom resolves one source; ok is false when an optional one is absent, and then there is no such variable.
func valueFrom(pod *corev1.Pod, c *corev1.Container, from *corev1.EnvVarSource, src Source, facts Facts) (value string, ok bool, err error) {
	switch {
	case from.FieldRef != nil:
		v, err := Field(pod, from.FieldRef.FieldPath, facts)
		return v, err == nil, err
	case from.ResourceFieldRef != nil:
		v, err := Resource(pod, c, from.ResourceFieldRef, facts)
		return v, err == nil, err
	case from.ConfigMapKeyRef != nil:
		ref := from.ConfigMapKeyRef
		cm, found := src.ConfigMap(pod.Namespace, ref.Name)
		if !found {
			if optional(ref.Optional) {
				return "", false, nil
			}
			return "", false, missing("configmap", ref.Name)
		}
		v, found := cm.Data[ref.Key]
		if !found && !optional(ref.Optional) {
			return "", false, fmt.Errorf("couldn't find key %v in ConfigMap %v/%v", ref.Key, pod.Namespace, ref.Name)
		}
		return v, found, nil
	case from.SecretKeyRef != nil:
		ref := from.SecretKeyRef
		secret, found := src.Secret(pod.Namespace, ref.Name)
		if !found {
			if optional(ref.Optional) {
				return "", false, nil
			}
			return "", false, missing("secret", ref.Name)
		}
		v, found := secret.Data[ref.Key]
		if !found && !optional(ref.Optional) {
			return "", false, fmt.Errorf("couldn't find key %v in Secret %v/%v", ref.Key, pod.Namespace, ref.Name)
		}
		return string(v), found, nil
	}
	return "", true, nil
}

// Refs lists the config maps and secrets that a container's variables need, as kind/name.
func Refs(c *corev1.Container) []string {
	var out []string
	for _, from := range c.EnvFrom {
		if from.ConfigMapRef != nil {
			out = append(out, "configmap/"+from.ConfigMapRef.Name)
		}
		if from.SecretRef != nil {
			out = append(out, "secret/"+from.SecretRef.Name)
		}
	}
	for _, e := range c.Env {
		if e.ValueFrom == nil {
			continue
		}
		if r := e.ValueFrom.ConfigMapKeyRef; r != nil {
			out = append(out, "configmap/"+r.Name)
		}
		if r := e.ValueFrom.SecretKeyRef; r != nil {
			out = append(out, "secret/"+r.Name)
		}
	}
	return out
}

// upper turns a service's name into the prefix of its variables.
func upper(name string) string { return strings.ToUpper(strings.ReplaceAll(name, "-", "_")) }
