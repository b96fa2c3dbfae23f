package docker

import (
	"slices"
	"testing"

	"github.com/whalepod/whalepod/node/runtime"
)

func TestSomeCapabilities(t *testing.T) {
	for name, tt := range map[string]struct {
		status, last string
		lacks        []string
		all, bad     bool
	}{
		"all":                  {status: "Name:\tx\nCapBnd:\t000001ffffffffff\n", last: "40\n", all: true},
		"no CAP_SYS_RESOURCE":  {status: "CapBnd:\t000001fffeffffff\n", last: "40\n", lacks: []string{"CAP_SYS_RESOURCE"}},
		"Docker's default set": {status: "CapBnd:\t00000000a80425fb\n", last: "40\n", lacks: []string{"CAP_SYS_ADMIN", "CAP_NET_ADMIN", "CAP_AUDIT_READ"}},
		"an old kernel, all":   {status: "CapBnd:\t0000001fffffffff\n", last: "36\n", all: true},
		"no such line":         {status: "Name:\tx\n", last: "40\n", bad: true},
		"not a number":         {status: "CapBnd:\tx\n", last: "40\n", bad: true},
	} {
		t.Run(name, func(t *testing.T) {
			given, err := someCapabilities(tt.status, tt.last)
			if (err != nil) != tt.bad || !tt.bad && (given == nil) != tt.all {
				t.Fatal(given, err)
			}
			for _, name := range tt.lacks {
				if slices.Contains(given, name) {
					t.Error("it has", name)
				}
			}
			if given != nil && !slices.Contains(given, "CAP_CHOWN") {
				t.Error("it has", given)
			}
		})
	}
}

func TestPrivilegedWithoutAllCapabilities(t *testing.T) {
	spec := runtime.ContainerSpec{Privileged: true, CapDrop: []string{"CHOWN"}, NoNewPrivileges: true}
	_, host, err := containerRequest("n", spec, features{})
	if err != nil || !host.Privileged || host.CapAdd != nil {
		t.Error("on a machine that has all:", host, err)
	}
	_, host, err = containerRequest("n", spec, features{given: []string{"CAP_CHOWN"}})
	if err != nil || host.Privileged || !slices.Equal(host.CapAdd, []string{"CAP_CHOWN"}) || host.CapDrop != nil || host.MaskedPaths == nil ||
		len(host.Devices) != 1 || slices.Contains(host.SecurityOpt, "no-new-privileges") {
		t.Errorf("on one that lacks some: %+v, %v", host, err)
	}
	_, host, err = containerRequest("n", runtime.ContainerSpec{}, features{given: []string{"CAP_CHOWN"}})
	if err != nil || len(host.CapAdd) > 0 {
		t.Errorf("not privileged: %+v, %v", host, err)
	}
}
