package resource

import (
	"testing"

	resourcev1 "k8s.io/api/resource/v1"
)

// TestDeallocatedDevicesLoseTheirStatus: what a driver said of a device goes when the device is not the claim's any more.
func TestDeallocatedDevicesLoseTheirStatus(t *testing.T) {
	allocation := func(names ...string) *resourcev1.AllocationResult {
		out := &resourcev1.AllocationResult{}
		for _, name := range names {
			out.Devices.Results = append(out.Devices.Results, resourcev1.DeviceRequestAllocationResult{Driver: "d", Pool: "p", Device: name})
		}
		return out
	}
	said := []resourcev1.AllocatedDeviceStatus{{Driver: "d", Pool: "p", Device: "a"}, {Driver: "d", Pool: "p", Device: "b"}}
	table := NewTable()
	r, _ := table.Lookup(draV1, "resourceclaims")
	old := &resourcev1.ResourceClaim{Status: resourcev1.ResourceClaimStatus{Allocation: allocation("a", "b"), Devices: said}}
	for want, now := range []*resourcev1.AllocationResult{nil, allocation("b"), allocation("a", "b")} {
		claim := old.DeepCopy()
		claim.Status.Allocation = now
		r.Rules().PrepareStatus(claim, old)
		if got := claim.Status.Devices; len(got) != want || want == 1 && got[0].Device != "b" {
			t.Errorf("of %d devices the status remains: %+v", want, got)
		}
	}
}
