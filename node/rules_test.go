package node

import (
	"errors"
	"testing"
)

func TestChooseMode(t *testing.T) {
	refused := errors.New("nf_tables: operation not supported (add set whalepod-try allowed)")
	said := "the kernel does not take rules of nf_tables: " + refused.Error()
	for _, c := range []struct {
		asked     string
		legacy    bool
		refused   error
		mode, why string
		err       string
	}{
		{"", false, nil, ProxyNftables, "the kernel takes them", ""},
		{ProxyAuto, false, nil, ProxyNftables, "the kernel takes them", ""},
		{ProxyAuto, true, nil, ProxyIptables, "this machine's iptables is the legacy one", ""},
		{ProxyAuto, false, refused, ProxyIptables, said, ""},
		{ProxyAuto, true, refused, ProxyIptables, said, ""},
		{ProxyIptables, false, nil, ProxyIptables, "--proxy-mode", ""},
		{ProxyIptables, true, refused, ProxyIptables, "--proxy-mode", ""},
		{ProxyNftables, true, nil, ProxyNftables, "--proxy-mode", ""},
		{ProxyNftables, false, refused, ProxyNftables, "--proxy-mode", said},
	} {
		mode, why, err := chooseMode(c.asked, c.legacy, c.refused)
		text := ""
		if err != nil {
			text = err.Error()
		}
		if mode != c.mode || why != c.why || text != c.err {
			t.Errorf("%+v: %s, %q, %v", c, mode, why, err)
		}
	}
	if err := checkProxyMode("ipvs"); err == nil || err.Error() != `--proxy-mode "ipvs": it may be auto, iptables or nftables` {
		t.Error(err)
	}
	if err := checkProxyMode(ProxyAuto); err != nil {
		t.Error(err)
	}
}
