//go:build e2e

package e2e

import (
	"strings"
	"testing"
)

// TestHttpdAnswersOnEveryAddress is svc-httpd.yml as the article has it.
func TestHttpdAnswersOnEveryAddress(t *testing.T) {
	emptyDefault(t)
	out := kubectl(t, "create", "-f", "../../examples/svc-httpd.yml")
	if out != "pod/httpd created\nservice/httpd-svc created\n" {
		t.Errorf("create says %q", out)
	}
	onEveryAddress(t, 30080, "It works!")
	row := table(t, kubectl(t, "get", "svc")).row("httpd-svc")
	if row["TYPE"] != "NodePort" || row["PORT(S)"] != "80:30080/TCP" || !strings.HasPrefix(row["CLUSTER-IP"], "10.254.") || row["EXTERNAL-IP"] != "<none>" {
		t.Errorf("get svc shows %v", row)
	}
}
