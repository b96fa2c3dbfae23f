package quickjson

import (
	"encoding/base64"
	"encoding/json"
	"reflect"
	"slices"
	"strconv"
	"time"
	"unicode/utf8"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
)

// Append writes v as json.Marshal would. memo is for the items of one list, see Memo; it may be nil.
func Append(b []byte, v any, memo *Memo) ([]byte, error) {
	if v == nil {
		return append(b, "null"...), nil
	}
	rv := reflect.ValueOf(v)
	return planOf(rv.Type()).fn(b, rv, memo)
}

// special are the types that write themselves and are everywhere.
var special = map[reflect.Type]appender{
	reflect.TypeFor[metav1.Time]():         appendTime,
	reflect.TypeFor[metav1.MicroTime]():    appendMicroTime,
	reflect.TypeFor[resource.Quantity]():   appendQuantity,
	reflect.TypeFor[intstr.IntOrString]():  appendIntOrString,
	reflect.TypeFor[corev1.ResourceList](): appendResourceList,
	reflect.TypeFor[map[string]string]():   appendStringMap,
}

// appendOther leaves a value to encoding/json.
func appendOther(b []byte, v reflect.Value, _ *Memo) ([]byte, error) {
	if v.CanAddr() {
		v = v.Addr()
	}
	data, err := json.Marshal(v.Interface())
	return append(b, data...), err
}

func appendBool(b []byte, v reflect.Value, _ *Memo) ([]byte, error) {
	return strconv.AppendBool(b, v.Bool()), nil
}
func appendInt(b []byte, v reflect.Value, _ *Memo) ([]byte, error) {
	return strconv.AppendInt(b, v.Int(), 10), nil
}
func appendUint(b []byte, v reflect.Value, _ *Memo) ([]byte, error) {
	return strconv.AppendUint(b, v.Uint(), 10), nil
}

func appendInterface(b []byte, v reflect.Value, memo *Memo) ([]byte, error) {
	if v.IsNil() {
		return append(b, "null"...), nil
	}
	v = v.Elem()
	return planOf(v.Type()).fn(b, v, memo)
}

func appendBytes(b []byte, v reflect.Value, _ *Memo) ([]byte, error) {
	if v.IsNil() {
		return append(b, "null"...), nil
	}
	b = append(b, '"')
	b = base64.StdEncoding.AppendEncode(b, v.Bytes())
	return append(b, '"'), nil
}

func appendTime(b []byte, v reflect.Value, _ *Memo) ([]byte, error) {
	var t *metav1.Time
	if v.CanAddr() {
		t = v.Addr().Interface().(*metav1.Time)
	} else {
		c := v.Interface().(metav1.Time)
		t = &c
	}
	return quotedTime(b, t.Time, time.RFC3339), nil
}

func appendMicroTime(b []byte, v reflect.Value, _ *Memo) ([]byte, error) {
	return quotedTime(b, v.Interface().(metav1.MicroTime).Time, metav1.RFC3339Micro), nil
}

func quotedTime(b []byte, t time.Time, layout string) []byte {
	if t.IsZero() {
		return append(b, "null"...)
	}
	b = append(b, '"')
	b = t.UTC().AppendFormat(b, layout)
	return append(b, '"')
}

func appendQuantity(b []byte, v reflect.Value, _ *Memo) ([]byte, error) {
	return quantity(b, v.Interface().(resource.Quantity))
}

func quantity(b []byte, q resource.Quantity) ([]byte, error) {
	// Not String, which remembers its result in the object: objects are shared.
	data, err := q.MarshalJSON()
	return append(b, data...), err
}

func appendIntOrString(b []byte, v reflect.Value, _ *Memo) ([]byte, error) {
	switch x := v.Interface().(intstr.IntOrString); x.Type {
	case intstr.Int:
		return strconv.AppendInt(b, int64(x.IntVal), 10), nil
	case intstr.String:
		return appendString(b, x.StrVal), nil
	}
	return appendOther(b, v, nil)
}

// sortedKeys of maps small enough for the stack, usually.
func sortedKeys[K ~string, V any](m map[K]V, keys []K) []K {
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}

func appendResourceList(b []byte, v reflect.Value, _ *Memo) ([]byte, error) {
	m := v.Interface().(corev1.ResourceList)
	if m == nil {
		return append(b, "null"...), nil
	}
	var room [8]corev1.ResourceName
	b = append(b, '{')
	var err error
	for i, k := range sortedKeys(m, room[:0]) {
		if i > 0 {
			b = append(b, ',')
		}
		b = append(appendString(b, string(k)), ':')
		if b, err = quantity(b, m[k]); err != nil {
			return b, err
		}
	}
	return append(b, '}'), nil
}

func appendStringMap(b []byte, v reflect.Value, _ *Memo) ([]byte, error) {
	m := v.Interface().(map[string]string)
	if m == nil {
		return append(b, "null"...), nil
	}
	var room [16]string
	b = append(b, '{')
	for i, k := range sortedKeys(m, room[:0]) {
		if i > 0 {
			b = append(b, ',')
		}
		b = append(appendString(b, k), ':')
		b = appendString(b, m[k])
	}
	return append(b, '}'), nil
}

// mapping writes maps whose keys are strings; others are left to encoding/json.
func (m maker) mapping(t reflect.Type) appender {
	if t.Key().Kind() != reflect.String || t.Key().Implements(textMarshaler) {
		return appendOther
	}
	elem := m.plan(t.Elem())
	return func(b []byte, v reflect.Value, memo *Memo) ([]byte, error) {
		if v.IsNil() {
			return append(b, "null"...), nil
		}
		keys := v.MapKeys()
		slices.SortFunc(keys, func(x, y reflect.Value) int {
			switch a, c := x.String(), y.String(); {
			case a < c:
				return -1
			case a > c:
				return 1
			}
			return 0
		})
		b = append(b, '{')
		var err error
		for i, k := range keys {
			if i > 0 {
				b = append(b, ',')
			}
			b = append(appendString(b, k.String()), ':')
			if b, err = elem.fn(b, v.MapIndex(k), memo); err != nil {
				return b, err
			}
		}
		return append(b, '}'), nil
	}
}

// plain marks the bytes that stand for themselves in a string; encoding/json also escapes <, > and &.
var plain = func() (t [256]bool) {
	for c := 0x20; c < utf8.RuneSelf; c++ {
		t[c] = c != '"' && c != '\\' && c != '<' && c != '>' && c != '&'
	}
	return t
}()

const hex = "0123456789abcdef"

func appendString(b []byte, s string) []byte {
	b = append(b, '"')
	start := 0
	for i := 0; i < len(s); {
		c := s[i]
		if plain[c] {
			i++
			continue
		}
		if c < utf8.RuneSelf {
			b = append(b, s[start:i]...)
			b = appendEscaped(b, c)
			i++
			start = i
			continue
		}
		r, size := utf8.DecodeRuneInString(s[i:])
		switch {
		case r == utf8.RuneError && size == 1:
			b = append(append(b, s[start:i]...), `\ufffd`...)
			start = i + size
		case r == '\u2028' || r == '\u2029': // JavaScript's line ends
			b = append(append(b, s[start:i]...), `\u202`...)
			b = append(b, hex[r&0xf])
			start = i + size
		}
		i += size
	}
	b = append(b, s[start:]...)
	return append(b, '"')
}

func appendEscaped(b []byte, c byte) []byte {
	switch c {
	case '"', '\\':
		return append(b, '\\', c)
	case '\b':
		return append(b, '\\', 'b')
	case '\f':
		return append(b, '\\', 'f')
	case '\n':
		return append(b, '\\', 'n')
	case '\r':
		return append(b, '\\', 'r')
	case '\t':
		return append(b, '\\', 't')
	}
	return append(b, '\\', 'u', '0', '0', hex[c>>4], hex[c&0xf])
}
