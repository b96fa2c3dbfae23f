//go:build e2e

package e2e

import "testing"

// TestOldManifests: those that today's Kubernetes refuses, and what kube-dns's own has.
func TestOldManifests(t *testing.T) {
	atOnce(t, every, func(t *testing.T, k cli) {
		session(t, k, map[string]string{"old.yml": oldManifests, "dns.yml": kubeDNS}, `
$ create -f @old.yml
deployment.extensions/sidekiq created
~ ^replicaset.(extensions|apps)/reps created$
ingress.extensions/site created
poddisruptionbudget.policy/half created
$ get deployment sidekiq -o jsonpath={.spec.selector}{.spec.strategy.rollingUpdate}{.spec.template.spec.containers[0].imagePullPolicy}
{"matchLabels":{"app":"sidekiq"}}{"maxSurge":1,"maxUnavailable":1}Always
$ scale --replicas 3 deployment sidekiq
deployment.apps/sidekiq scaled
$ get ingress
~ ^site +<none> +blog.example +80 +\S+$
$~ get replicaset reps -o wide
~ ^NAME +DESIRED +CURRENT +READY +AGE +CONTAINERS +IMAGES +SELECTOR$
~ ^reps +2 +2 +0 +\S+ +main +busybox +app=reps$
$~ get replicasets,pods -l app=reps
~ ^replicaset.apps/reps +2 +2 +0 
~ ^pod/reps-\w{5} +0/1 +Pending +0 
$ apply -f @old.yml
~ ^Warning: resource deployments/sidekiq is missing the kubectl.kubernetes.io/last-applied-configuration annotation
deployment.extensions/sidekiq configured
pod/bare configured
$ apply -f @old.yml
pod/bare unchanged
deployment.extensions/sidekiq unchanged
$ delete replicaset reps
~ ^replicaset.apps "reps" deleted
$~ get pods -l app=reps
~ ^No resources found in
$ apply -f @dns.yml
deployment.extensions/dns created
$~ get pods -l k8s-app=dns -o jsonpath={.items[0].spec.priority}{.items[0].spec.priorityClassName}{.items[0].spec.tolerations[0].key}
2000000000system-cluster-criticalCriticalAddonsOnly
$ get pods -l k8s-app=dns -o jsonpath={.items[0].metadata.annotations}
{"scheduler.alpha.kubernetes.io/critical-pod":""}
$ get service dns
~ ^dns +ClusterIP +10\.254\.\S+ +<none> +53/UDP,53/TCP +\S+$
$ delete --ignore-not-found -f @dns.yml -f @old.yml
~ ^deployment.extensions "dns" deleted
`)
	})
}

// oldManifests are of the kinds, groups and shapes of posts of 2017; the pods wait for a node that is not there.
const oldManifests = `kind: Deployment
apiVersion: extensions/v1beta1
metadata: {name: sidekiq}
spec:
  replicas: 1
  template:
    metadata: {labels: {app: sidekiq}}
    spec:
      nodeSelector: {zone: nowhere}
      containers: [{name: main, image: busybox, imagePullPolicy: Always, readinessProbe: {tcpSocket: {port: 80}, initialDelaySeconds: 5, periodSeconds: 1}}]
---
kind: ReplicaSet
apiVersion: extensions/v1beta1
metadata: {name: reps}
spec:
  replicas: 2
  template:
    metadata: {labels: {app: reps}}
    spec:
      nodeSelector: {zone: nowhere}
      containers: [{name: main, image: busybox}]
---
apiVersion: v1
kind: Pod
metadata: {name: bare}
spec:
  nodeSelector: {zone: nowhere}
  containers: [{name: main, image: busybox}]
---
apiVersion: extensions/v1beta1
kind: Ingress
metadata: {name: site}
spec: {rules: [{host: blog.example, http: {paths: [{path: /, backend: {serviceName: web, servicePort: 80}}]}}]}
---
apiVersion: policy/v1beta1
kind: PodDisruptionBudget
metadata: {name: half}
spec: {minAvailable: 50%, selector: {matchLabels: {app: sidekiq}}}
`

// kubeDNS has the fields of kube-dns's manifest of Kubernetes 1.5 to 1.9.
const kubeDNS = `apiVersion: v1
kind: Service
metadata:
  name: dns
  labels: {k8s-app: dns, kubernetes.io/cluster-service: "true", kubernetes.io/name: "KubeDNS"}
spec:
  selector: {k8s-app: dns}
  ports:
  - {name: dns, port: 53, protocol: UDP}
  - {name: dns-tcp, port: 53, protocol: TCP}
---
apiVersion: extensions/v1beta1
kind: Deployment
metadata: {name: dns}
spec:
  strategy: {rollingUpdate: {maxSurge: 10%, maxUnavailable: 0}}
  selector: {matchLabels: {k8s-app: dns}}
  template:
    metadata:
      labels: {k8s-app: dns}
      annotations: {scheduler.alpha.kubernetes.io/critical-pod: ''}
    spec:
      nodeSelector: {zone: nowhere}
      priorityClassName: system-cluster-critical
      tolerations: [{key: "CriticalAddonsOnly", operator: "Exists"}]
      volumes: [{name: config, configMap: {name: dns, optional: true}}]
      containers: [{name: dns, image: busybox, volumeMounts: [{name: config, mountPath: /kube-dns-config}]}]
      dnsPolicy: Default
`
