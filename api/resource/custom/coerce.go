package custom

import (
	structuralschema "k8s.io/apiextensions-apiserver/pkg/apiserver/schema"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema/defaulting"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema/objectmeta"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema/pruning"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

// source is where an object comes from that is to be made to fit its schema.
type source int

const (
	// client: what is malformed in the metadata is an error.
	client source = iota
	// strictClient: as client, and unknown fields are reported.
	strictClient
	// stored: what does not fit goes, since nobody could mend it otherwise.
	stored
)

// coerce does to an unstructured object what decoding does to a typed one: metadata is made of known fields, fields that the
// schema does not know go (they are reported if asked for), and so do nulls that it does not allow.
func (v *Version) coerce(u *unstructured.Unstructured, from source) (unknown []string, err error) {
	c, err := v.compile()
	if err != nil {
		return nil, err
	}
	apiVersion, kind := u.GetAPIVersion(), u.GetKind()
	meta, found, paths, err := objectmeta.GetObjectMetaWithOptions(u.Object, objectmeta.ObjectMetaOptions{
		DropMalformedFields: from == stored, ReturnUnknownFieldPaths: from == strictClient,
	})
	if err != nil {
		return nil, apierrors.NewBadRequest(err.Error())
	}
	unknown = append(unknown, paths...)
	if !v.preserves() {
		paths = pruning.PruneWithOptions(u.Object, c.structural, true, structuralschema.UnknownFieldPathOptions{TrackUnknownFieldPaths: from == strictClient})
		unknown = append(unknown, paths...)
		defaulting.PruneNonNullableNullsWithoutDefaults(u.Object, c.structural)
	}
	failed, paths := objectmeta.CoerceWithOptions(nil, u.Object, c.structural, false, objectmeta.CoerceOptions{
		DropInvalidFields: from == stored, ReturnUnknownFieldPaths: from == strictClient,
	})
	if failed != nil {
		return nil, apierrors.NewBadRequest(failed.Error())
	}
	unknown = append(unknown, paths...)
	u.SetAPIVersion(apiVersion)
	u.SetKind(kind)
	if !found {
		return unknown, nil
	}
	return unknown, objectmeta.SetObjectMeta(u.Object, meta)
}

// setDefaults fills in what the object leaves out.
func (v *Version) setDefaults(u *unstructured.Unstructured) error {
	c, err := v.compile()
	if err != nil {
		return err
	}
	defaulting.Default(u.Object, c.structural)
	return nil
}

// Accept makes what a client sent an object of its version, before defaults; it reports the fields that the schema does not
// know, if it is asked to.
func (v *Version) Accept(u *unstructured.Unstructured, report bool) (unknown []string, err error) {
	if report {
		return v.coerce(u, strictClient)
	}
	return v.coerce(u, client)
}

// Default fills in what an object of any version leaves out.
func (k *Kind) Default(u *unstructured.Unstructured) error {
	v, err := k.versionOf(u)
	if err != nil {
		return err
	}
	return v.setDefaults(u)
}

// Complete makes what a client sent an object of its own version that can be worked with.
func (k *Kind) Complete(u *unstructured.Unstructured) error {
	v, err := k.versionOf(u)
	if err != nil {
		return err
	}
	if _, err := v.coerce(u, client); err != nil {
		return err
	}
	return v.setDefaults(u)
}

// renew makes an object that was written by another state of the definition what it would be now, in its own version. The
// result is the object itself where nothing has to change, else it shares nothing with it.
func (k *Kind) renew(u *unstructured.Unstructured, own *Version) (*unstructured.Unstructured, error) {
	if k.fresh(u) {
		return u, nil
	}
	u = u.DeepCopy()
	if _, err := own.coerce(u, stored); err != nil {
		return nil, err
	}
	if err := own.setDefaults(u); err != nil {
		return nil, err
	}
	if u.GetGeneration() == 0 {
		u.SetGeneration(1)
	}
	return u, nil
}
