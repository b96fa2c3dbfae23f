package binding

import (
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/whalepod/whalepod/master/internal/registry"
)

// selectedNode on a claim tells those who bind and make volumes where its pod will run; external provisioners know it too.
const selectedNode = "volume.kubernetes.io/selected-node"

// selectNode has the claims' volumes chosen or made for a node. A claim that has changed meanwhile brings its own news.
func selectNode(tx *registry.Tx, claims []*corev1.PersistentVolumeClaim, node string) error {
	for _, known := range claims {
		claim, err := registry.Get[*corev1.PersistentVolumeClaim](tx, known.Namespace, known.Name)
		if apierrors.IsNotFound(err) || err == nil && (claim.UID != known.UID || claim.Spec.VolumeName != "" || claim.Annotations[selectedNode] == node) {
			continue
		}
		if err != nil {
			return err
		}
		claim = claim.DeepCopy()
		metav1.SetMetaDataAnnotation(&claim.ObjectMeta, selectedNode, node)
		if _, err := registry.Put(tx, claim); err != nil {
			return err
		}
	}
	return nil
}
