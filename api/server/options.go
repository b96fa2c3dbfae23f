package server

import (
	"slices"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/apis/meta/internalversion"
	metascheme "k8s.io/apimachinery/pkg/apis/meta/internalversion/scheme"
	listvalidation "k8s.io/apimachinery/pkg/apis/meta/internalversion/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	metavalidation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/validation/field"
	sigsjson "sigs.k8s.io/json"
	"sigs.k8s.io/yaml"
)

// params decodes the query into options of the meta group; what it does not know is ignored, as Kubernetes does.
func (rq *request) params(into runtime.Object) error {
	if err := metascheme.ParameterCodec.DecodeParameters(rq.query, metav1.SchemeGroupVersion, into); err != nil {
		return apierrors.NewBadRequest(err.Error())
	}
	return nil
}

func invalidOptions(kind string, errs field.ErrorList) error {
	if len(errs) == 0 {
		return nil
	}
	return apierrors.NewInvalid(schema.GroupKind{Group: metav1.GroupName, Kind: kind}, "", errs)
}

// listOptions reads and checks the options of list, watch and deletecollection.
func (rq *request) listOptions() (*internalversion.ListOptions, error) {
	o := &internalversion.ListOptions{}
	if err := rq.params(o); err != nil {
		return nil, err
	}
	o.Watch = rq.verb == "watch"
	errs := listvalidation.ValidateListOptions(o, true)
	if o.ShardSelector != "" {
		errs = append(errs, field.Forbidden(field.NewPath("shardSelector"), "this server does not shard lists and watches"))
	}
	if err := invalidOptions("ListOptions", errs); err != nil {
		return nil, err
	}
	if o.LabelSelector == nil {
		o.LabelSelector = labels.Everything()
	}
	if o.FieldSelector == nil {
		o.FieldSelector = fields.Everything()
	}
	sel, err := rq.s.Table.FieldSelector(rq.res, rq.gv, o.FieldSelector)
	if err != nil {
		return nil, err
	}
	o.FieldSelector = sel
	if rq.name == "" {
		return o, nil
	}
	// A watch of one object by its path is a watch with a field selector.
	if !sel.Empty() {
		if name, ok := sel.RequiresExactMatch("metadata.name"); !ok || name != rq.name {
			return nil, apierrors.NewBadRequest("fieldSelector metadata.name doesn't match requested name")
		}
		return o, nil
	}
	o.FieldSelector = fields.OneTermEqualSelector("metadata.name", rq.name)
	return o, nil
}

// writeOptions are what create, update and patch share.
type writeOptions struct {
	WriteOptions
	manager, validation string
}

func (rq *request) newWriteOptions(dryRun []string, manager, validation string) writeOptions {
	w := writeOptions{manager: manager, validation: validation}
	w.DryRun, w.Warn, w.User = len(dryRun) > 0, rq.warn, rq.user
	if w.validation == "" {
		w.validation = metav1.FieldValidationWarn
	}
	if w.manager == "" {
		w.manager = managerOf(rq.req.UserAgent())
	}
	return w
}

func (rq *request) createOptions() (writeOptions, error) {
	o := &metav1.CreateOptions{}
	if err := rq.params(o); err != nil {
		return writeOptions{}, err
	}
	if err := invalidOptions("CreateOptions", metavalidation.ValidateCreateOptions(o)); err != nil {
		return writeOptions{}, err
	}
	return rq.newWriteOptions(o.DryRun, o.FieldManager, o.FieldValidation), nil
}

func (rq *request) updateOptions() (writeOptions, error) {
	o := &metav1.UpdateOptions{}
	if err := rq.params(o); err != nil {
		return writeOptions{}, err
	}
	if err := invalidOptions("UpdateOptions", metavalidation.ValidateUpdateOptions(o)); err != nil {
		return writeOptions{}, err
	}
	return rq.newWriteOptions(o.DryRun, o.FieldManager, o.FieldValidation), nil
}

func (rq *request) patchOptions(patch types.PatchType) (w writeOptions, force bool, err error) {
	o := &metav1.PatchOptions{}
	if err := rq.params(o); err != nil {
		return w, false, err
	}
	if err := invalidOptions("PatchOptions", metavalidation.ValidatePatchOptions(o, patch)); err != nil {
		return w, false, err
	}
	return rq.newWriteOptions(o.DryRun, o.FieldManager, o.FieldValidation), o.Force != nil && *o.Force, nil
}

// deleteOptions come in the body or, when there is none, in the query.
func (rq *request) deleteOptions() (*metav1.DeleteOptions, error) {
	o := &metav1.DeleteOptions{}
	data, err := rq.body()
	if err != nil {
		return nil, err
	}
	if len(data) > 0 {
		err = rq.decodeDeleteOptions(data, o)
	} else {
		err = rq.params(o)
	}
	if err != nil {
		return nil, err
	}
	if o.IgnoreStoreReadErrorWithClusterBreakingPotential != nil && *o.IgnoreStoreReadErrorWithClusterBreakingPotential {
		return nil, invalidOptions("DeleteOptions", field.ErrorList{field.Forbidden(
			field.NewPath("ignoreStoreReadErrorWithClusterBreakingPotential"), "this server never keeps an object that it cannot read")})
	}
	return o, invalidOptions("DeleteOptions", metavalidation.ValidateDeleteOptions(o))
}

// backendDelete turns the options into the backend's; orphanDependents is the old way to say propagationPolicy.
func (rq *request) backendDelete(o *metav1.DeleteOptions) DeleteOptions {
	d := DeleteOptions{WriteOptions: WriteOptions{DryRun: len(o.DryRun) > 0, Warn: rq.warn, User: rq.user},
		GracePeriodSeconds: o.GracePeriodSeconds, Propagation: o.PropagationPolicy}
	if o.OrphanDependents != nil {
		p := metav1.DeletePropagationBackground
		if *o.OrphanDependents {
			p = metav1.DeletePropagationOrphan
		}
		d.Propagation = &p
	}
	d.OrphanByDefault = d.Propagation == nil && rq.res != nil && slices.Contains(rq.res.Rules().OrphanByDefault, rq.gv)
	if o.Preconditions != nil {
		d.UID, d.ResourceVersion = o.Preconditions.UID, o.Preconditions.ResourceVersion
	}
	return d
}

// unmarshalLoose reads JSON or YAML as Kubernetes reads objects: case-sensitive, integers kept.
func unmarshalLoose(f format, data []byte, into any) error {
	if f == formatYAML {
		var err error
		if data, err = yaml.YAMLToJSON(data); err != nil {
			return err
		}
	}
	return sigsjson.UnmarshalCaseSensitivePreserveInts(data, into)
}
