package main

import (
	"log/slog"
	"slices"
	"strings"
	"testing"
)

func TestConfigRefusesBadRanges(t *testing.T) {
	for _, c := range []struct{ args, want string }{
		{"--service-cidr fd00::/108 --dns-ip fd00::a", "--service-cidr fd00::/108: give a range of IPv4 addresses"},
		{"--service-cidr 10.254.0.0/31 --dns-ip 10.254.0.1", "from /8 to /28"},
		{"--service-cidr 0.0.0.0/0", "from /8 to /28"},
		{"--pod-cidr 10.244.0.0/25", "from /8 to /24"},
		{"--pod-cidr 10.254.0.0/16", "overlap"},
		{"--dns-ip 10.1.0.1", "must be an address in the range of Services"},
	} {
		f, err := parse(strings.Fields(c.args + " --advertise-address 127.0.0.1 --bind 127.0.0.1"))
		if err != nil {
			t.Fatal(err)
		}
		if _, err = config(f, slog.New(slog.DiscardHandler)); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v", c.args, err)
		}
	}
}

func TestConfigTrimsNames(t *testing.T) {
	f, err := parse([]string{"--extra-sans", "a.example, b.example,", "--advertise-address", "127.0.0.1", "--bind", "127.0.0.1", "--api-port", "0", "--agents-port", "0"})
	if err != nil {
		t.Fatal(err)
	}
	c, err := config(f, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	c.API.Close()
	c.Agents.Close()
	if !slices.Equal(c.SANs, []string{"a.example", "b.example"}) {
		t.Errorf("%q", c.SANs)
	}
}

func TestPoolsOfLoadBalancers(t *testing.T) {
	f, err := parse([]string{"--lb-pool", "203.0.113.0/28", "--lb-pool=203.0.113.40-203.0.113.50"})
	if err != nil || !slices.Equal(f.lbPools, []string{"203.0.113.0/28", "203.0.113.40-203.0.113.50"}) {
		t.Error(f, err)
	}
}
