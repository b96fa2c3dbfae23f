package admission

import (
	"encoding/base64"
	"fmt"
	"math"
	"time"

	"github.com/google/cel-go/common/types"
	"github.com/google/cel-go/common/types/ref"
	"github.com/google/cel-go/common/types/traits"
	"google.golang.org/protobuf/types/known/structpb"
	"k8s.io/apiserver/pkg/cel/mutation/dynamic"
)

// jsonOf gives the value of an expression in the types of JSON, as unstructured objects have them. The library's own
// conversions give up on objects in lists, with a panic, and leave lists in lists as they are.
func jsonOf(v any) (any, error) {
	switch v := v.(type) {
	case nil, bool, string, int64, float64:
		return v, nil
	case structpb.NullValue:
		return nil, nil
	case uint64:
		if v > math.MaxInt64 {
			return float64(v), nil
		}
		return int64(v), nil
	case []byte:
		return base64.StdEncoding.EncodeToString(v), nil
	case time.Time:
		return v.UTC().Format(time.RFC3339Nano), nil
	case time.Duration:
		return v.String(), nil
	case error: // also the values of failed evaluations
		return nil, v
	case []any:
		return jsonList(v)
	case []ref.Val:
		return jsonList(v)
	case map[string]any:
		return jsonMap(v)
	case map[ref.Val]ref.Val:
		return jsonMap(v)
	case *dynamic.ObjectVal:
		return jsonOf(v.Value())
	case traits.Mapper:
		content := map[ref.Val]ref.Val{}
		for it := v.Iterator(); it.HasNext() == types.True; {
			key := it.Next()
			content[key] = v.Get(key)
		}
		return jsonMap(content)
	case traits.Lister:
		var content []ref.Val
		for it := v.Iterator(); it.HasNext() == types.True; {
			content = append(content, it.Next())
		}
		return jsonList(content)
	case *types.Optional:
		if !v.HasValue() {
			return nil, nil
		}
		return jsonOf(v.GetValue())
	case types.Null, types.Bool, types.String, types.Int, types.Uint, types.Double, types.Bytes, types.Timestamp, types.Duration:
		return jsonOf(v.(ref.Val).Value())
	}
	return nil, fmt.Errorf("a value of type %T cannot be part of an object", v)
}

func jsonList[T any](list []T) (any, error) {
	out := make([]any, 0, len(list))
	for _, v := range list {
		each, err := jsonOf(v)
		if err != nil {
			return nil, err
		}
		out = append(out, each)
	}
	return out, nil
}

func jsonMap[K comparable, T any](content map[K]T) (any, error) {
	out := make(map[string]any, len(content))
	for k, v := range content {
		key, err := jsonOf(k)
		if err != nil {
			return nil, err
		}
		name, ok := key.(string)
		if !ok {
			return nil, fmt.Errorf("map key %v is of type %T, not string", key, key)
		}
		if out[name], err = jsonOf(v); err != nil {
			return nil, err
		}
	}
	return out, nil
}
