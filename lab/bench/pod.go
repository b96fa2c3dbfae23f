package main

import (
	"fmt"
	"strings"
)

func podName(i int) string { return fmt.Sprintf("web-5d8f7c9b6d-%05d", i) }

// podBody is a pod as a ReplicaSet makes it, with probes, requests and a volume.
func podBody(i int) []byte { return []byte(strings.ReplaceAll(podTemplate, "NAME", podName(i))) }

const podTemplate = `{"apiVersion":"v1","kind":"Pod","metadata":{"name":"NAME","namespace":"default",
"labels":{"app":"web","pod-template-hash":"5d8f7c9b6d","tier":"front"}},
"spec":{"schedulerName":"nobody","containers":[{"name":"web","image":"registry.example.com/team/web:1.2.3",
"ports":[{"name":"http","containerPort":8080,"protocol":"TCP"}],
"env":[{"name":"DB_HOST","value":"mysql"},{"name":"POD_IP","valueFrom":{"fieldRef":{"fieldPath":"status.podIP"}}}],
"resources":{"requests":{"cpu":"100m","memory":"128Mi"},"limits":{"memory":"256Mi"}},
"volumeMounts":[{"name":"conf","mountPath":"/etc/conf","readOnly":true}],
"livenessProbe":{"httpGet":{"path":"/healthz","port":8080},"periodSeconds":10},
"readinessProbe":{"httpGet":{"path":"/healthz","port":8080},"periodSeconds":10}}],
"volumes":[{"name":"conf","configMap":{"name":"conf"}}]}}`

// runningStatus is what an agent reports of it.
func runningStatus(i int) []byte {
	ip := fmt.Sprintf("10.244.%d.%d", i/250, i%250+2)
	return []byte(strings.ReplaceAll(statusTemplate, "ADDRESS", ip))
}

const statusTemplate = `{"status":{"phase":"Running","hostIP":"198.51.100.11","podIP":"ADDRESS","podIPs":[{"ip":"ADDRESS"}],
"startTime":"2024-01-01T00:00:00Z","conditions":[
{"type":"Initialized","status":"True","lastTransitionTime":"2024-01-01T00:00:00Z"},
{"type":"Ready","status":"True","lastTransitionTime":"2024-01-01T00:00:00Z"},
{"type":"ContainersReady","status":"True","lastTransitionTime":"2024-01-01T00:00:00Z"},
{"type":"PodScheduled","status":"True","lastTransitionTime":"2024-01-01T00:00:00Z"}],
"containerStatuses":[{"name":"web","ready":true,"started":true,"restartCount":0,"image":"registry.example.com/team/web:1.2.3",
"imageID":"docker-pullable://registry.example.com/team/web@sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef",
"containerID":"docker://0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef",
"state":{"running":{"startedAt":"2024-01-01T00:00:00Z"}}}]}}`
