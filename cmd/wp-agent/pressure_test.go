package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestPressureFlags(t *testing.T) {
	o, err := parse("run", []string{"--eviction-hard=memory.available<200Mi,nodefs.available<5%", "--image-gc-high-threshold", "70", "--image-gc-low-threshold=60", "--system-reserved=cpu=100m,memory=100Mi", "--kube-reserved", "memory=50Mi"})
	if err != nil {
		t.Fatal(err)
	}
	if o.evictionHard != "memory.available<200Mi,nodefs.available<5%" || o.imageGC.High != 70 || o.imageGC.Low != 60 || o.imageGC.MinAge == 0 {
		t.Errorf("%+v", o)
	}
	if o.systemReserved.Cpu().MilliValue() != 100 || o.systemReserved.Memory().Value() != 100<<20 || o.kubeReserved.Memory().Value() != 50<<20 {
		t.Errorf("%v %v", o.systemReserved, o.kubeReserved)
	}
	if o, err := parse("run", nil); err != nil || o.imageGC.High != 85 || o.imageGC.Low != 80 || o.evictionHard != "" || o.systemReserved != nil {
		t.Errorf("%+v %v", o, err)
	}
	for arg, want := range map[string]string{
		"--eviction-hard=memory<1":      "unsupported eviction signal memory",
		"--image-gc-high-threshold=101": "invalid HighThresholdPercent 101",
		"--image-gc-high-threshold=70":  "LowThresholdPercent 80 can not be higher than HighThresholdPercent 70",
		"--kube-reserved=pods=1":        "cannot reserve",
	} {
		if _, err := parse("run", []string{arg}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", arg, err)
		}
	}
}

func TestProtect(t *testing.T) {
	proc := t.TempDir()
	file := filepath.Join(proc, "self", "oom_score_adj")
	if err := protect(proc); err == nil {
		t.Error("no error where there is no such file")
	}
	if err := os.Mkdir(filepath.Dir(file), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, []byte("0\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := protect(proc); err != nil {
		t.Error(err)
	}
	if text, _ := os.ReadFile(file); string(text) != "-999" {
		t.Errorf("%q", text)
	}
}
