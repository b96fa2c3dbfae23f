package main

import (
	"flag"

	corev1 "k8s.io/api/core/v1"

	"github.com/whalepod/whalepod/node/pressure"
)

// pressureFlags are the kubelet's, for what keeps a node alive when it runs short of something.
func (o *options) pressureFlags(fs *flag.FlagSet) {
	fs.Func("eviction-hard", "when pods are evicted, as signal<value,…; signals are memory.available, nodefs.available, nodefs.inodesFree, imagefs.available, "+
		"imagefs.inodesFree and pid.available, values quantities or percentages, 0% for never "+
		"(default: memory.available<100Mi,nodefs.available<10%,nodefs.inodesFree<5%,imagefs.available<15%,imagefs.inodesFree<5%, which stand for those not given; of memory a tenth where that is less)",
		func(text string) error {
			_, err := pressure.ParseThresholds(text, nil)
			o.evictionHard = text
			return err
		})
	o.imageGC = pressure.DefaultImagePolicy()
	fs.IntVar(&o.imageGC.High, "image-gc-high-threshold", o.imageGC.High, "percentage of the disk in use from which on unused images are removed; 100 for never")
	fs.IntVar(&o.imageGC.Low, "image-gc-low-threshold", o.imageGC.Low, "percentage of the disk in use down to which they are removed")
	reserve := func(into *corev1.ResourceList) func(string) error {
		return func(text string) (err error) {
			*into, err = pressure.ParseReserved(text)
			return err
		}
	}
	fs.Func("system-reserved", "what is kept from pods for the system, as cpu=100m,memory=200Mi,ephemeral-storage=1Gi (default: memory for the system, the engine and the agent, 240Mi on a server of 1 GB)", reserve(&o.systemReserved))
	fs.Func("kube-reserved", "what is kept from pods for the engine and the agent, beside --system-reserved", reserve(&o.kubeReserved))
}
