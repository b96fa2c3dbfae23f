// Package persistentvolume brings claims and volumes together: it binds, makes volumes in a directory of a node where a
// class asks for that, gives back what nobody claims any more, makes the claims of ephemeral volumes, and keeps claims and
// volumes that are in use from being removed.
//
// The rules are those of kube-controller-manager's persistentvolume-binder, pvc-protection, pv-protection and
// ephemeral-volume controllers. Here a claim and its volume are bound in one transaction, so there are no half-bound
// pairs to repair, other than those that people make by hand.
//
// It writes: PersistentVolumes' claimRef and status; PersistentVolumeClaims' volumeName and status; the finalizers
// kubernetes.io/pvc-protection and kubernetes.io/pv-protection (the registry adds them); the claims of ephemeral volumes;
// the volumes of classes whose provisioner is Provisioner.
package persistentvolume
