package registry

import (
	"context"
	"fmt"
	"maps"
	"net/http"
	"strconv"

	appsv1 "k8s.io/api/apps/v1"
	appsv1beta1 "k8s.io/api/apps/v1beta1"
	extensionsv1beta1 "k8s.io/api/extensions/v1beta1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"

	"github.com/whalepod/whalepod/api/resource"
	"github.com/whalepod/whalepod/api/server"
)

// rollback is the body of deployments/rollback, by which clients of the old groups (kubectl before 1.9) go back.
type rollback struct {
	name        string
	annotations map[string]string
	revision    int64
}

func rollbackOf(body runtime.Object) (rollback, bool) {
	switch b := body.(type) {
	case *extensionsv1beta1.DeploymentRollback:
		return rollback{b.Name, b.UpdatedAnnotations, b.RollbackTo.Revision}, true
	case *appsv1beta1.DeploymentRollback:
		return rollback{b.Name, b.UpdatedAnnotations, b.RollbackTo.Revision}, true
	}
	return rollback{}, false
}

// actRollback notes the wish on the Deployment, as spec.rollbackTo of those groups does; the controller carries it out.
func (r *Registry) actRollback(ctx context.Context, res *resource.Resource, namespace, name string, b rollback, o server.WriteOptions) (runtime.Object, error) {
	if b.name != name {
		return nil, apierrors.NewBadRequest(fmt.Sprintf("name in URL does not match name in DeploymentRollback object: %q, %q", name, b.name))
	}
	_, _, err := r.Update(ctx, res, "", namespace, name, server.UpdateOptions{WriteOptions: o}, func(current resource.Object) (resource.Object, error) {
		d := current.(*appsv1.Deployment)
		if d.Annotations == nil {
			d.Annotations = map[string]string{}
		}
		maps.Copy(d.Annotations, b.annotations)
		d.Annotations[appsv1.DeprecatedRollbackTo] = strconv.FormatInt(b.revision, 10)
		return d, nil
	})
	if err != nil {
		return nil, err
	}
	return &metav1.Status{
		TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Status"}, Status: metav1.StatusSuccess, Code: http.StatusOK,
		Message: fmt.Sprintf("rollback request for deployment %q succeeded", name),
	}, nil
}
