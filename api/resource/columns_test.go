package resource

import (
	"flag"
	"fmt"
	"os"
	"strings"
	"testing"
	"testing/synctest"
	"text/tabwriter"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/google/go-cmp/cmp"
)

var updateGolden = flag.Bool("update", false, "rewrite golden files")

const goldenColumns = "testdata/columns/columns.golden"

// Every kind as `kubectl get -o wide` shows it; the ages need a clock that stands still.
func TestColumns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		byKind := map[*Resource][]Object{}
		for _, in := range readManifest(t, "columns/objects.yml") {
			obj, err := table.ToStorage(in)
			if err != nil {
				t.Fatal(err)
			}
			r, _ := table.ByKind(obj.GetObjectKind().GroupVersionKind())
			byKind[r] = append(byKind[r], obj)
		}
		var out strings.Builder
		for _, r := range table.All() {
			if len(byKind[r]) == 0 {
				t.Errorf("no %s in objects.yml", r.Kind)
			}
			got, err := table.Table(r, byKind[r], TableOptions{})
			if err != nil {
				t.Fatal(err)
			}
			fmt.Fprintf(&out, "# %s\n%s\n", r.Key(), rendered(got))
		}
		if *updateGolden {
			if err := os.WriteFile(goldenColumns, []byte(out.String()), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		want, err := os.ReadFile(goldenColumns)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(string(want), out.String()); diff != "" {
			t.Error(diff)
		}
	})
}

func rendered(table *metav1.Table) string {
	var out strings.Builder
	w := tabwriter.NewWriter(&out, 0, 8, 3, ' ', 0)
	var names []string
	for _, c := range table.ColumnDefinitions {
		name := strings.ToUpper(c.Name)
		if c.Priority > 0 {
			name = "(" + name + ")" // with -o wide only
		}
		names = append(names, name)
	}
	fmt.Fprintln(w, strings.Join(names, "\t"))
	for _, row := range table.Rows {
		var cells []string
		for _, cell := range row.Cells {
			cells = append(cells, fmt.Sprint(cell))
		}
		fmt.Fprintln(w, strings.Join(cells, "\t"))
	}
	_ = w.Flush()
	lines := strings.Split(out.String(), "\n")
	for i := range lines {
		lines[i] = strings.TrimRight(lines[i], " ")
	}
	return strings.Join(lines, "\n")
}

func TestTableRows(t *testing.T) {
	d := stored(t, "{apiVersion: extensions/v1beta1, kind: Deployment, metadata: {name: a, labels: {b: c}}, spec: {template: {metadata: {labels: {app: a}}, spec: {containers: [{name: c, image: i}]}}}}")
	r, _ := table.ByKey("deployments.apps")
	for _, test := range []struct {
		options TableOptions
		headers bool
		object  string
	}{
		{TableOptions{}, true, "*v1.PartialObjectMetadata PartialObjectMetadata meta.k8s.io/v1"},
		{TableOptions{IncludeObject: metav1.IncludeMetadata, NoHeaders: true}, false, "*v1.PartialObjectMetadata PartialObjectMetadata meta.k8s.io/v1"},
		{TableOptions{IncludeObject: metav1.IncludeNone}, true, ""},
		{TableOptions{IncludeObject: metav1.IncludeObject}, true, "*v1.Deployment Deployment apps/v1"},
		{TableOptions{IncludeObject: metav1.IncludeObject, GroupVersion: extensionsV1}, true, "*v1beta1.Deployment Deployment extensions/v1beta1"},
	} {
		before := d.DeepCopyObject()
		got, err := table.Table(r, []Object{d}, test.options)
		if err != nil {
			t.Fatal(err)
		}
		if (len(got.ColumnDefinitions) > 0) != test.headers || got.Kind != "Table" || got.APIVersion != "meta.k8s.io/v1" {
			t.Errorf("%+v: %d headers of a %s %s", test.options, len(got.ColumnDefinitions), got.APIVersion, got.Kind)
		}
		object := ""
		if o := got.Rows[0].Object.Object; o != nil {
			gvk := o.GetObjectKind().GroupVersionKind()
			object = fmt.Sprintf("%T %s %s", o, gvk.Kind, gvk.GroupVersion())
		}
		if object != test.object {
			t.Errorf("%+v: %s", test.options, object)
		}
		if diff := cmp.Diff(before, d.DeepCopyObject()); diff != "" {
			t.Error("the object was changed:", diff)
		}
	}
}
