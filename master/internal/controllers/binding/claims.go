package binding

import (
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/whalepod/whalepod/master/internal/registry"
	"github.com/whalepod/whalepod/scheduler"
)

// selectedNode on a claim tells those who bind and make volumes where its pod will run; external provisioners know it too.
const selectedNode = "volume.kubernetes.io/selected-node"

// boundByUs on a volume says that the claim was not written into it by people: it is free again when the claim goes elsewhere.
const boundByUs = "pv.kubernetes.io/bound-by-controller"

// selectNode has the claims' volumes chosen or made for a node. Volumes that only people make are promised to the claims at
// once, as in Kubernetes: otherwise two claims, or two pods, might count on the same one. It says whether there is still a
// volume for each. A claim that has changed meanwhile brings its own news.
func (c *Controller) selectNode(tx *registry.Tx, known []*corev1.PersistentVolumeClaim, node *corev1.Node) (bool, error) {
	claims := make([]*corev1.PersistentVolumeClaim, 0, len(known))
	for _, k := range known {
		claim, err := registry.Get[*corev1.PersistentVolumeClaim](tx, k.Namespace, k.Name)
		if apierrors.IsNotFound(err) || err == nil && (claim.UID != k.UID || claim.Spec.VolumeName != "") {
			continue
		}
		if err != nil {
			return false, err
		}
		claims = append(claims, claim)
	}
	chosen, ok := c.snapshot.Choose(claims, registry.List[*corev1.PersistentVolume](tx, ""), node)
	if !ok {
		return false, nil
	}
	for _, choice := range chosen {
		if err := promise(tx, choice); err != nil {
			return false, err
		}
	}
	for _, claim := range claims {
		if claim.Annotations[selectedNode] == node.Name {
			continue
		}
		claim = claim.DeepCopy()
		metav1.SetMetaDataAnnotation(&claim.ObjectMeta, selectedNode, node.Name)
		if _, err := registry.Put(tx, claim); err != nil {
			return false, err
		}
	}
	return true, nil
}

func promise(tx *registry.Tx, choice scheduler.Choice) error {
	if choice.Volume.Spec.ClaimRef != nil {
		return nil // it is promised already, and nobody else's
	}
	v, claim := choice.Volume.DeepCopy(), choice.Claim
	v.Spec.ClaimRef = &corev1.ObjectReference{
		Kind: "PersistentVolumeClaim", APIVersion: "v1", Namespace: claim.Namespace, Name: claim.Name, UID: claim.UID,
		ResourceVersion: claim.ResourceVersion,
	}
	metav1.SetMetaDataAnnotation(&v.ObjectMeta, boundByUs, "yes")
	_, err := registry.Put(tx, v)
	return err
}
