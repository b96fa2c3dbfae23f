package resource

import (
	"context"
	"fmt"
	"strings"

	resourcev1 "k8s.io/api/resource/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/kubernetes/pkg/apis/resource"
	_ "k8s.io/kubernetes/pkg/apis/resource/install" // the scheme does not have this group from elsewhere
	"k8s.io/kubernetes/pkg/apis/resource/validation"
	"sigs.k8s.io/structured-merge-diff/v6/fieldpath"
)

// The kinds of dynamic resource allocation. Nothing here allocates devices: there are no drivers, and a claim waits for
// one. Of the fields behind feature gates, those are dropped that are off in this release of Kubernetes; of
// ResourceClaims, none is (DRAAdminAccess, DRAPrioritizedList, DRAConsumableCapacity and the others are on).

var draV1 = schema.GroupVersion{Group: "resource.k8s.io", Version: "v1"}

func deviceClasses() *Resource {
	return &Resource{
		Name: "deviceclasses", Singular: "deviceclass", Kind: "DeviceClass", ListKind: "DeviceClassList",
		Storage: draV1, Served: served(draV1), Verbs: allVerbs,
		rules: Rules{
			PrepareCreate: func(obj Object) { obj.SetGeneration(1) },
			PrepareUpdate: func(obj, old Object) {
				keepGeneration(obj, old, differ(obj.(*resourcev1.DeviceClass).Spec, old.(*resourcev1.DeviceClass).Spec))
			},
			Validate:                 validate(validation.ValidateDeviceClass),
			ValidateUpdate:           validateChange(validation.ValidateDeviceClassUpdate),
			AllowUnconditionalUpdate: true,
		},
	}
}

func resourceClaims() *Resource {
	return &Resource{
		Name: "resourceclaims", Singular: "resourceclaim", Kind: "ResourceClaim", ListKind: "ResourceClaimList", Namespaced: true,
		Storage: draV1, Served: served(draV1), Verbs: allVerbs,
		Subresources: map[string]Subresource{"status": statusOf(draV1, "ResourceClaim")},
		rules: Rules{
			PrepareCreate: func(obj Object) { obj.(*resourcev1.ResourceClaim).Status = resourcev1.ResourceClaimStatus{} },
			PrepareUpdate: func(obj, old Object) {
				obj.(*resourcev1.ResourceClaim).Status = old.(*resourcev1.ResourceClaim).Status
			},
			PrepareStatus: func(obj, old Object) {
				claim, before := obj.(*resourcev1.ResourceClaim), old.(*resourcev1.ResourceClaim)
				claim.Spec = before.Spec
				metav1.ResetObjectMetaForStatus(&claim.ObjectMeta, &before.ObjectMeta)
				dropDeallocated(&claim.Status, &before.Status)
			},
			Validate:                 validate(validation.ValidateResourceClaim),
			ValidateUpdate:           validateChange(validation.ValidateResourceClaimUpdate),
			ValidateStatus:           validateChange(validation.ValidateResourceClaimStatusUpdate),
			AllowUnconditionalUpdate: true,
			Reset:                    specAndStatus(fieldpath.MakePathOrDie("metadata")),
		},
	}
}

// device is what one entry of a claim's status is about; share is empty for a device that is not shared.
type device struct{ driver, pool, name, share string }

// dropDeallocated takes the status of devices that are not allocated any more out of a claim's, for clients that do not
// know that part of it.
func dropDeallocated(status, before *resourcev1.ResourceClaimStatus) {
	allocated := devicesOf(status.Allocation)
	gone := devicesOf(before.Allocation)
	var kept []resourcev1.AllocatedDeviceStatus
	for _, d := range status.Devices {
		id := device{driver: d.Driver, pool: d.Pool, name: d.Device}
		if d.ShareID != nil {
			id.share = *d.ShareID
		}
		if allocated[id] || !gone[id] {
			kept = append(kept, d)
		}
	}
	status.Devices = kept
}

func devicesOf(allocation *resourcev1.AllocationResult) map[device]bool {
	if allocation == nil {
		return nil
	}
	out := make(map[device]bool, len(allocation.Devices.Results))
	for _, r := range allocation.Devices.Results {
		id := device{driver: r.Driver, pool: r.Pool, name: r.Device}
		if r.ShareID != nil {
			id.share = string(*r.ShareID)
		}
		out[id] = true
	}
	return out
}

func resourceClaimTemplates() *Resource {
	return &Resource{
		Name: "resourceclaimtemplates", Singular: "resourceclaimtemplate", Kind: "ResourceClaimTemplate",
		ListKind: "ResourceClaimTemplateList", Namespaced: true,
		Storage: draV1, Served: served(draV1), Verbs: allVerbs,
		rules: Rules{
			Validate: validate(validation.ValidateResourceClaimTemplate),
			ValidateUpdate: validateChange(func(in, old *resource.ResourceClaimTemplate) field.ErrorList {
				return append(validation.ValidateResourceClaimTemplate(in), validation.ValidateResourceClaimTemplateUpdate(in, old)...)
			}),
			AllowUnconditionalUpdate: true,
		},
	}
}

func resourceSlices() *Resource {
	return &Resource{
		Name: "resourceslices", Singular: "resourceslice", Kind: "ResourceSlice", ListKind: "ResourceSliceList",
		Storage: draV1, Served: served(draV1), Verbs: allVerbs,
		rules: Rules{
			PrepareCreate: func(obj Object) {
				obj.SetGeneration(1)
				dropDisabledSliceFields(obj.(*resourcev1.ResourceSlice))
			},
			PrepareUpdate: func(obj, old Object) {
				slice := obj.(*resourcev1.ResourceSlice)
				dropDisabledSliceFields(slice)
				keepGeneration(slice, old, differ(slice.Spec, old.(*resourcev1.ResourceSlice).Spec))
			},
			Validate:       validate(validation.ValidateResourceSlice),
			ValidateUpdate: validateChange(validation.ValidateResourceSliceUpdate),
			Warnings: func(_ context.Context, obj, _ Object) []string {
				if driver := obj.(*resourcev1.ResourceSlice).Spec.Driver; driver != strings.ToLower(driver) {
					return []string{fmt.Sprintf("spec.driver: driver names should be lowercase; %q contains uppercase characters", driver)}
				}
				return nil
			},
			Fields: func(obj Object) map[string]string {
				spec := &obj.(*resourcev1.ResourceSlice).Spec
				out := map[string]string{resourcev1.ResourceSliceSelectorNodeName: "", resourcev1.ResourceSliceSelectorDriver: spec.Driver}
				if spec.NodeName != nil {
					out[resourcev1.ResourceSliceSelectorNodeName] = *spec.NodeName
				}
				return out
			},
			AllowUnconditionalUpdate: true,
		},
	}
}

// dropDisabledSliceFields drops what the gates DRANodeAllocatableResources and DRAListTypeAttributes stand for. No stored
// slice has any of it.
func dropDisabledSliceFields(slice *resourcev1.ResourceSlice) {
	for i := range slice.Spec.Devices {
		d := &slice.Spec.Devices[i]
		d.NodeAllocatableResourceMappings = nil
		for name, a := range d.Attributes {
			a.BoolValues, a.IntValues, a.StringValues, a.VersionValues = nil, nil, nil, nil
			d.Attributes[name] = a
		}
	}
}
