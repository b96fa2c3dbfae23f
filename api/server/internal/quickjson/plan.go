package quickjson

import (
	"encoding"
	"encoding/json"
	"reflect"
	"slices"
	"strings"
	"sync"
)

// appender writes a value. The value is addressable wherever encoding/json would have it so.
type appender func(b []byte, v reflect.Value, memo *Memo) ([]byte, error)

// plan is how one type is written. fn is set before the plan is published.
type plan struct{ fn appender }

// plans of the types seen, by reflect.Type.
var (
	plans  sync.Map
	making sync.Mutex
)

// planOf returns the plan of a type, made at its first use.
func planOf(t reflect.Type) *plan {
	if p, ok := plans.Load(t); ok {
		return p.(*plan)
	}
	making.Lock()
	defer making.Unlock()
	m := maker{}
	p := m.plan(t)
	// Published all at once: types may refer to themselves.
	for t, p := range m {
		plans.LoadOrStore(t, p)
	}
	return p
}

// maker makes the plans of a type and of all that it is made of.
type maker map[reflect.Type]*plan

func (m maker) plan(t reflect.Type) *plan {
	if p, ok := plans.Load(t); ok {
		return p.(*plan)
	}
	if p := m[t]; p != nil {
		return p
	}
	p := &plan{}
	m[t] = p
	p.fn = m.make(t)
	return p
}

var (
	jsonMarshaler = reflect.TypeFor[json.Marshaler]()
	textMarshaler = reflect.TypeFor[encoding.TextMarshaler]()
	zeroer        = reflect.TypeFor[interface{ IsZero() bool }]()
)

func marshalsItself(t reflect.Type) bool {
	p := reflect.PointerTo(t)
	return p.Implements(jsonMarshaler) || p.Implements(textMarshaler)
}

func (m maker) make(t reflect.Type) appender {
	if fn := special[t]; fn != nil {
		return fn
	}
	if t.Kind() != reflect.Pointer && marshalsItself(t) {
		return appendOther
	}
	switch t.Kind() {
	case reflect.Bool:
		return appendBool
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64:
		return appendInt
	case reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		return appendUint
	case reflect.String:
		return func(b []byte, v reflect.Value, _ *Memo) ([]byte, error) { return appendString(b, v.String()), nil }
	case reflect.Interface:
		return appendInterface
	case reflect.Pointer:
		return m.pointer(t)
	case reflect.Slice:
		if slot, ok := remembered[t]; ok {
			return remember(slot, m.slice(t))
		}
		return m.slice(t)
	case reflect.Map:
		return m.mapping(t)
	case reflect.Struct:
		return m.structure(t)
	}
	return appendOther
}

func (m maker) pointer(t reflect.Type) appender {
	elem := m.plan(t.Elem())
	return func(b []byte, v reflect.Value, memo *Memo) ([]byte, error) {
		if v.IsNil() {
			return append(b, "null"...), nil
		}
		return elem.fn(b, v.Elem(), memo)
	}
}

func (m maker) slice(t reflect.Type) appender {
	if t.Elem().Kind() == reflect.Uint8 && !marshalsItself(t.Elem()) {
		return appendBytes
	}
	elem := m.plan(t.Elem())
	return func(b []byte, v reflect.Value, memo *Memo) ([]byte, error) {
		if v.IsNil() {
			return append(b, "null"...), nil
		}
		b = append(b, '[')
		var err error
		for i, n := 0, v.Len(); i < n; i++ {
			if i > 0 {
				b = append(b, ',')
			}
			if b, err = elem.fn(b, v.Index(i), memo); err != nil {
				return b, err
			}
		}
		return append(b, ']'), nil
	}
}

// field is one field of a struct, or of a struct embedded in it.
type field struct {
	name  string
	index []int
	// key is the name as it is written, with the colon.
	key   []byte
	empty func(reflect.Value) bool
	plan  *plan
}

func (f *field) of(v reflect.Value) reflect.Value {
	for _, i := range f.index {
		v = v.Field(i)
	}
	return v
}

func (m maker) structure(t reflect.Type) appender {
	fields, ok := m.fields(t, nil)
	if !ok {
		return appendOther
	}
	return func(b []byte, v reflect.Value, memo *Memo) ([]byte, error) {
		b = append(b, '{')
		first := true
		var err error
		for i := range fields {
			f := &fields[i]
			fv := f.of(v)
			if f.empty != nil && f.empty(fv) {
				continue
			}
			if !first {
				b = append(b, ',')
			}
			first = false
			b = append(b, f.key...)
			if b, err = f.plan.fn(b, fv, memo); err != nil {
				return b, err
			}
		}
		return append(b, '}'), nil
	}
}

// fields lists what encoding/json would write; false when its rules are needed in full (names twice, embedded
// pointers, the string option).
func (m maker) fields(t reflect.Type, index []int) ([]field, bool) {
	var out []field
	for i := range t.NumField() {
		sf := t.Field(i)
		name, options, _ := strings.Cut(sf.Tag.Get("json"), ",")
		if sf.Tag.Get("json") == "-" || !sf.IsExported() && !sf.Anonymous {
			continue
		}
		opts := strings.Split(options, ",")
		at := append(slices.Clone(index), i)
		if sf.Anonymous && name == "" {
			if sf.Type.Kind() != reflect.Struct || marshalsItself(sf.Type) || !sf.IsExported() {
				return nil, false
			}
			inner, ok := m.fields(sf.Type, at)
			if !ok {
				return nil, false
			}
			out = append(out, inner...)
			continue
		}
		if slices.Contains(opts, "string") {
			return nil, false
		}
		if name == "" {
			name = sf.Name
		}
		f := field{name: name, index: at, key: append(appendString(nil, name), ':'), plan: m.plan(sf.Type)}
		f.empty = emptyTest(sf.Type, slices.Contains(opts, "omitempty"), slices.Contains(opts, "omitzero"))
		out = append(out, f)
	}
	for i := range out {
		for j := range i {
			if out[i].name == out[j].name {
				return nil, false
			}
		}
	}
	return out, true
}

// emptyTest says when a field is left out; nil for never.
func emptyTest(t reflect.Type, omitempty, omitzero bool) func(reflect.Value) bool {
	var tests []func(reflect.Value) bool
	if omitzero {
		tests = append(tests, zeroTest(t))
	}
	if omitempty {
		switch t.Kind() {
		case reflect.Array, reflect.Map, reflect.Slice, reflect.String:
			tests = append(tests, func(v reflect.Value) bool { return v.Len() == 0 })
		case reflect.Interface, reflect.Pointer:
			tests = append(tests, reflect.Value.IsNil)
		case reflect.Struct:
		default:
			tests = append(tests, reflect.Value.IsZero)
		}
	}
	switch len(tests) {
	case 0:
		return nil
	case 1:
		return tests[0]
	}
	return func(v reflect.Value) bool { return tests[0](v) || tests[1](v) }
}

func zeroTest(t reflect.Type) func(reflect.Value) bool {
	switch {
	case t.Kind() == reflect.Interface || t.Kind() == reflect.Pointer:
		if !t.Implements(zeroer) {
			return reflect.Value.IsZero
		}
		return func(v reflect.Value) bool { return v.IsNil() || v.Interface().(interface{ IsZero() bool }).IsZero() }
	case t.Implements(zeroer):
		return func(v reflect.Value) bool { return v.Interface().(interface{ IsZero() bool }).IsZero() }
	case reflect.PointerTo(t).Implements(zeroer):
		return func(v reflect.Value) bool {
			if !v.CanAddr() {
				v = addressable(v)
			}
			return v.Addr().Interface().(interface{ IsZero() bool }).IsZero()
		}
	}
	return reflect.Value.IsZero
}

// addressable copies a value to where it has an address.
func addressable(v reflect.Value) reflect.Value {
	c := reflect.New(v.Type()).Elem()
	c.Set(v)
	return c
}
