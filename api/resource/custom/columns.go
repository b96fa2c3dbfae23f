package custom

import (
	"bytes"
	"encoding/json"
	"fmt"
	"reflect"
	"strings"
	"sync"

	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"k8s.io/apimachinery/pkg/api/meta/table"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/client-go/util/jsonpath"
)

// columns of `kubectl get`. A JSONPath holds state while it is evaluated, hence the lock.
type columns struct {
	headers []metav1.TableColumnDefinition
	mu      sync.Mutex
	paths   []*jsonpath.JSONPath
}

// ageColumns are those of a version that names none.
var ageColumns = []apiextensionsv1.CustomResourceColumnDefinition{{
	Name: "Age", Type: "date", JSONPath: ".metadata.creationTimestamp", Description: metav1.ObjectMeta{}.SwaggerDoc()["creationTimestamp"],
}}

func (v *Version) tableColumns() *columns {
	v.columnsOnce.Do(func() {
		v.columns.headers = []metav1.TableColumnDefinition{{Name: "Name", Type: "string", Format: "name", Description: metav1.ObjectMeta{}.SwaggerDoc()["name"]}}
		wanted := v.Spec.AdditionalPrinterColumns
		if len(wanted) == 0 {
			wanted = ageColumns
		}
		for _, w := range wanted {
			path, err := parsePath(w.Name, w.JSONPath)
			if err != nil {
				return // validated when the definition was made; Kubernetes falls back to the columns before, too
			}
			description := w.Description
			if description == "" {
				description = "Custom resource definition column (in JSONPath format): " + w.JSONPath
			}
			v.columns.paths = append(v.columns.paths, path)
			v.columns.headers = append(v.columns.headers, metav1.TableColumnDefinition{
				Name: w.Name, Type: w.Type, Format: w.Format, Description: description, Priority: w.Priority,
			})
		}
	})
	return &v.columns
}

func parsePath(name, path string) (*jsonpath.JSONPath, error) {
	p := jsonpath.New(name)
	p.AllowMissingKeys(true)
	return p, p.Parse("{" + path + "}")
}

// Columns are the headers.
func (v *Version) Columns() []metav1.TableColumnDefinition { return v.tableColumns().headers }

// Cells are those of one object of this version.
func (v *Version) Cells(u *unstructured.Unstructured) []any {
	c := v.tableColumns()
	c.mu.Lock()
	defer c.mu.Unlock()
	cells := []any{u.GetName()}
	for i, path := range c.paths {
		cells = append(cells, cell(path, c.headers[i+1].Type, u.Object))
	}
	return cells
}

// cell is nil where there is no value, or one of another type.
func cell(path *jsonpath.JSONPath, kind string, obj map[string]any) any {
	results, err := path.FindResults(obj)
	if err != nil || len(results) == 0 || len(results[0]) == 0 || !results[0][0].CanInterface() {
		return nil
	}
	value := results[0][0].Interface()
	switch kind {
	case "string":
		var text bytes.Buffer
		if path.PrintResults(&text, []reflect.Value{reflect.ValueOf(value)}) != nil {
			return nil
		}
		return text.String()
	case "integer":
		switch n := value.(type) {
		case int64:
			return n
		case float64:
			return int64(n)
		case json.Number:
			if i, err := n.Int64(); err == nil {
				return i
			}
		}
	case "number":
		switch n := value.(type) {
		case int64:
			return float64(n)
		case float64:
			return n
		}
	case "boolean":
		if b, ok := value.(bool); ok {
			return b
		}
	case "date":
		text, ok := value.(string)
		if !ok {
			return nil
		}
		var at metav1.Time
		if at.UnmarshalQueryParameter(text) != nil {
			return "<invalid>"
		}
		return table.ConvertToHumanReadableDateType(at)
	}
	return nil
}

// SelectableFields are the names that field selectors of this version may use, besides those of the metadata.
func (v *Version) SelectableFields() []string {
	out := make([]string, 0, len(v.Spec.SelectableFields))
	for _, f := range v.Spec.SelectableFields {
		out = append(out, strings.TrimPrefix(f.JSONPath, "."))
	}
	return out
}

// Fields gives the values of this version's selectable fields.
func (v *Version) Fields(u *unstructured.Unstructured) map[string]string {
	out := make(map[string]string, len(v.Spec.SelectableFields))
	for _, name := range v.SelectableFields() {
		out[name] = ""
		if value, ok, err := unstructured.NestedFieldNoCopy(u.Object, strings.Split(name, ".")...); err == nil && ok && value != nil {
			out[name] = fmt.Sprint(value)
		}
	}
	return out
}
