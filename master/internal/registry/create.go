package registry

import (
	"context"
	"errors"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/rand"
	"k8s.io/apimachinery/pkg/util/uuid"

	"github.com/whalepod/whalepod/api/resource"
	"github.com/whalepod/whalepod/api/server"
)

// errDryRun rolls a dry run's transaction back.
var errDryRun = errors.New("dry run")

const (
	// A generated name is cut so that with its suffix it still fits a DNS label (RFC 1123).
	maxNameLength, randomLength = 63, 5
	// Suffixes collide rarely; Kubernetes tries as often.
	maxNameTries = 8
)

// Create implements server.Backend.
func (r *Registry) Create(ctx context.Context, res *resource.Resource, namespace string, obj resource.Object, o server.WriteOptions) (resource.Object, error) {
	if err := checkTerminating(res); err != nil {
		return nil, err
	}
	if csr, ok := obj.(*certificatesv1.CertificateSigningRequest); ok {
		stampRequester(csr, o.User)
	}
	var generated bool
	if err := r.View(func(v *View) (err error) {
		generated, err = r.prepareCreate(v, res, namespace, obj)
		return err
	}); err != nil {
		return nil, err
	}
	rules := res.Rules()
	if rules.Validate != nil {
		if errs := rules.Validate(ctx, obj); len(errs) > 0 {
			return nil, apierrors.NewInvalid(res.GroupVersionKind().GroupKind(), obj.GetName(), errs)
		}
	}
	if rules.Warnings != nil && o.Warn != nil {
		for _, w := range rules.Warnings(ctx, obj, nil) {
			o.Warn(w)
		}
	}
	r.observe(obj, nil)
	if o.Check != nil {
		if err := o.Check(ctx, obj, nil); err != nil {
			return nil, err
		}
	}
	obj, err := res.Write(ctx, obj)
	if err != nil {
		return nil, err
	}
	var made Object
	err = r.Transact(ctx, func(tx *Tx) error {
		made = obj.DeepCopyObject().(Object) // the store may call again from the start
		if err := r.insert(tx, res, made, generated); err != nil {
			return err
		}
		if o.DryRun {
			made.SetResourceVersion("")
			return errDryRun
		}
		return nil
	})
	if err != nil && !errors.Is(err, errDryRun) {
		return nil, err
	}
	return handOut(ctx, res, made)
}

// prepareCreate sets what the system sets on a new object, before validation, and says whether it made up the name.
func (r *Registry) prepareCreate(v *View, res *resource.Resource, namespace string, obj Object) (generated bool, err error) {
	if err := checkNamespace(res, namespace, obj); err != nil {
		return false, err
	}
	if obj.GetResourceVersion() != "" {
		return false, apierrors.NewBadRequest("resourceVersion should not be set on objects to be created")
	}
	// Again in the transaction; here, so that a mistyped namespace is the first thing that a user hears of.
	if err := checkNamespaceOpen(v, res, obj); err != nil {
		return false, err
	}
	obj.SetUID(uuid.NewUUID())
	obj.SetCreationTimestamp(metav1.Time{Time: time.Now().Truncate(time.Second)})
	obj.SetDeletionTimestamp(nil)
	obj.SetDeletionGracePeriodSeconds(nil)
	obj.SetSelfLink("")
	generated = obj.GetName() == "" && obj.GetGenerateName() != ""
	if generated {
		obj.SetName(generateName(obj.GetGenerateName()))
	}
	r.cfg.Table.Default(obj)
	if pod, ok := obj.(*corev1.Pod); ok {
		defaultLimits(v, pod) // before its QoS class is made of them
	}
	if prepare := res.Rules().PrepareCreate; prepare != nil {
		prepare(obj)
	}
	switch o := obj.(type) {
	case *corev1.Pod:
		return generated, r.admitPod(v, o)
	case *corev1.PersistentVolumeClaim:
		admitClaim(v, o)
		protect(o, claimProtection)
	case *corev1.PersistentVolume:
		protect(o, volumeProtection)
	case *networkingv1.Ingress:
		admitIngress(v, o)
	case *certificatesv1.CertificateSigningRequest:
		return generated, admitSigningRequest(o)
	}
	return generated, nil
}

func generateName(base string) string {
	if len(base) > maxNameLength-randomLength {
		base = base[:maxNameLength-randomLength]
	}
	return base + rand.String(randomLength)
}

func checkNamespace(res *resource.Resource, namespace string, obj Object) error {
	switch {
	case !res.Namespaced:
		if obj.GetNamespace() != "" && namespace == "" {
			obj.SetNamespace("")
		}
	case obj.GetNamespace() == "":
		obj.SetNamespace(namespace)
	case obj.GetNamespace() != namespace:
		return apierrors.NewBadRequest("the namespace of the provided object does not match the namespace sent on the request")
	}
	return nil
}

// insert allocates what the object needs and writes it, trying other names when a generated one is taken.
func (r *Registry) insert(tx *Tx, res *resource.Resource, obj Object, generated bool) error {
	if err := r.checkCurrent(res); err != nil {
		return err
	}
	if err := checkNamespaceOpen(tx, res, obj); err != nil {
		return err
	}
	if err := r.admitWrite(tx, obj, nil); err != nil {
		return err
	}
	quotas, err := r.charge(tx, res, obj, nil)
	if err != nil {
		return err
	}
	for try := 1; ; try++ {
		err := statusError(tx.tx.Create(keyOf(res, obj.GetNamespace(), obj.GetName()), obj), res, obj.GetName())
		if err == nil {
			return tx.settle(quotas)
		}
		if !apierrors.IsAlreadyExists(err) || !generated {
			return err
		}
		if try == maxNameTries {
			return apierrors.NewGenerateNameConflict(res.GroupResource(), obj.GetName(), 1)
		}
		obj.SetName(generateName(obj.GetGenerateName()))
		if ns, ok := obj.(*corev1.Namespace); ok {
			ns.Labels[corev1.LabelMetadataName] = ns.Name
		}
	}
}

// checkNamespaceOpen refuses objects in namespaces that do not exist or are being emptied.
func checkNamespaceOpen(v Viewer, res *resource.Resource, obj Object) error {
	if !res.Namespaced {
		return nil
	}
	ns, err := Get[*corev1.Namespace](v, "", obj.GetNamespace())
	if err != nil {
		return err
	}
	if ns.DeletionTimestamp == nil {
		return nil
	}
	err = apierrors.NewForbidden(res.GroupResource(), obj.GetName(),
		errorf("unable to create new content in namespace %s because it is being terminated", ns.Name))
	var status *apierrors.StatusError
	if errors.As(err, &status) {
		status.ErrStatus.Details.Causes = append(status.ErrStatus.Details.Causes, metav1.StatusCause{
			Type:    corev1.NamespaceTerminatingCause,
			Message: "namespace " + ns.Name + " is being terminated", Field: "metadata.namespace",
		})
	}
	return err
}
