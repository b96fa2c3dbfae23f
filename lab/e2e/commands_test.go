//go:build e2e

package e2e

import (
	"strings"
	"testing"
)

// TestCreateOfEveryKind: what "create" makes of arguments.
func TestCreateOfEveryKind(t *testing.T) {
	atOnce(t, append([]cli{wpctl}, every...), func(t *testing.T, k cli) {
		ns := currentNamespace(t, k)
		session(t, k, nil, strings.ReplaceAll(`
$ create deployment web --image=nginx --replicas=0 --port=80
deployment.apps/web created
$ create deployment two --image=nginx --dry-run=server -o jsonpath={.spec.replicas}{.spec.template.spec.containers[0].imagePullPolicy}{.spec.strategy.rollingUpdate.maxSurge}
1Always25%
$ create job hello --image=busybox --dry-run=server -o jsonpath={.spec.backoffLimit}{.spec.template.spec.containers[0].command} -- echo hi
6["echo","hi"]
$ create cronjob cj --image=busybox --schedule='*/5 * * * *' --restart=OnFailure -- date
cronjob.batch/cj created
$new create job --from=cronjob/cj now --dry-run=server -o jsonpath={.metadata.annotations}
{"cronjob.kubernetes.io/instantiate":"manual"}
$! create cronjob bad --image=busybox --schedule=often
~ spec.schedule: Invalid value: "often"
$ create quota small --hard=count/deployments.apps=2,services=20
resourcequota/small created
$~ get quota
~ ^small +(\S+ +)?count/deployments.apps: 1/2, services: 0/20
$ create deployment second --image=nginx --replicas=0
$! create deployment third --image=nginx
~ deployments.apps "third" is forbidden: exceeded quota: small, requested: count/deployments.apps=1, used: count/deployments.apps=2, limited: count/deployments.apps=2
$ create poddisruptionbudget half --selector=app=web --min-available=50%
poddisruptionbudget.policy/half created
$ get pdb
~ ^NAME +MIN AVAILABLE +MAX UNAVAILABLE +ALLOWED DISRUPTIONS +AGE$
~ ^half +50% +N/A +0 +\S+$
$ create priorityclass OWN --value=1000 --description='for tests'
priorityclass.scheduling.k8s.io/OWN created
$ get priorityclasses
~ ^OWN +1000 +false +\S+
~ ^system-node-critical +2000001000 +false
$ delete priorityclass OWN
$ create role pod-reader --verb=get,list --resource=pods,deployments.apps,pods/log --resource-name=web
role.rbac.authorization.k8s.io/pod-reader created
$ describe role pod-reader
~ ^  deployments.apps +\[\] +\[web\] +\[get list\]$
$ create rolebinding readers --role=pod-reader --serviceaccount=OWN:robot --user=bob --group=devs
rolebinding.rbac.authorization.k8s.io/readers created
$ get rolebinding -o wide
~ ^readers +Role/pod-reader +\S+ +bob +devs +OWN/robot$
$ create clusterrole OWN --verb=get --non-resource-url=/metrics
clusterrole.rbac.authorization.k8s.io/OWN created
$ create clusterrolebinding OWN --clusterrole=OWN --user=carol
clusterrolebinding.rbac.authorization.k8s.io/OWN created
$ delete clusterrolebinding,clusterrole OWN
$ create secret docker-registry pull --docker-server=registry.example --docker-username=u --docker-password=p
secret/pull created
$ get secret pull
~ ^pull +kubernetes.io/dockerconfigjson +1 
$ create service clusterip inner --tcp=80:8080 --tcp=443
service/inner created
$ create service clusterip headless --clusterip=None
$ create service nodeport outer --tcp=80
$ create service loadbalancer cloud --tcp=80
$ create service externalname far --external-name=example.com
$ get svc
~ ^inner +ClusterIP +10\.254\.\S+ +<none> +80/TCP,443/TCP 
~ ^headless +ClusterIP +None +<none> +<none> 
~ ^outer +NodePort +10\.254\.\S+ +<none> +80:3\d{4}/TCP 
~ ^cloud +LoadBalancer +10\.254\.\S+ +\S+ +80:3\d{4}/TCP 
~ ^far +ExternalName +<none> +example.com +<none> 
$ create ingress site --rule='blog.example/*=inner:80,tls=cert'
ingress.networking.k8s.io/site created
$ get ingress
~ ^NAME +CLASS +HOSTS +ADDRESS +PORTS +AGE$
~ ^site +<none> +blog.example +80, 443 +\S+$
$ create serviceaccount robot
serviceaccount/robot created
$new create token robot --duration=1h
~ ^ey[\w-]+\.[\w-]+\.[\w-]+$
$! create namespace OWN
~ namespaces "OWN" already exists
`, "OWN", ns))
	})
}

// TestRunOptions: what "run" makes of its options. No node has the label, so nothing is started.
func TestRunOptions(t *testing.T) {
	atOnce(t, []cli{wpctl, every[len(every)-1]}, func(t *testing.T, k cli) {
		session(t, k, nil, `
$ run web --image=nginx --port=80 --expose --overrides={"spec":{"nodeSelector":{"zone":"nowhere"}}}
service/web created
pod/web created
$~ get pods,svc
~ ^pod/web +0/1 +Pending +0 +\S+
~ ^service/web +ClusterIP +\S+ +<none> +80/TCP 
$ get pod web -o jsonpath={.metadata.labels}{.spec.restartPolicy}{.spec.containers[0].ports}
~ ^{"run":"web"}Always\[{"containerPort":80,"protocol":"TCP"}\]$
$ wait --for=condition=PodScheduled=false pod/web
~ ^pod/web condition met$
$~ get pod web -o jsonpath={.status.conditions[*].message}
~ 0/3 nodes are available: 3 node\(s\) didn't match Pod's node affinity/selector
$ run once --image=busybox --restart=Never --env=A=1 --env=B=two --labels=app=once,tier=x --dry-run=server -o jsonpath={.spec.restartPolicy}{.spec.containers[0].env}{.spec.containers[0].args}{.metadata.labels.tier} -- sleep 9
~ ^Never\[{"name":"A","value":"1"},{"name":"B","value":"two"}\]\["sleep","9"\]x$
$ run once --image=busybox --command --dry-run=client -o yaml -- sleep 9
~ ^  - command:$
~ ^  restartPolicy: Always$
$ run once --image=busybox --restart=OnFailure --dry-run=server -o jsonpath={.spec.restartPolicy}{.spec.tolerations[0].key}
OnFailurenode.kubernetes.io/not-ready
$! get pod once
~ \(NotFound\): pods "once" not found
$! run No_Name --image=busybox
~ metadata.name: Invalid value: "No_Name"
$! run once --image=busybox --restart=Sometimes
~ invalid restart policy: Sometimes
`)
	})
}

// idle has a workload of each kind; none of its pods can be scheduled.
const idle = `apiVersion: apps/v1
kind: StatefulSet
metadata: {name: db}
spec:
  replicas: 0
  serviceName: db
  selector: {matchLabels: {app: db}}
  template:
    metadata: {labels: {app: db}}
    spec:
      nodeSelector: {zone: nowhere}
      containers: [{name: main, image: "busybox:1.30", ports: [{containerPort: 6379}]}]
---
apiVersion: apps/v1
kind: DaemonSet
metadata: {name: agent}
spec:
  selector: {matchLabels: {app: agent}}
  template:
    metadata: {labels: {app: agent}}
    spec:
      nodeSelector: {zone: nowhere}
      containers: [{name: main, image: "busybox:1.30"}]
---
apiVersion: v1
kind: ReplicationController
metadata: {name: old}
spec:
  replicas: 1
  template:
    metadata: {labels: {app: old}}
    spec:
      nodeSelector: {zone: nowhere}
      containers: [{name: main, image: "busybox:1.30", ports: [{containerPort: 99}]}]
---
kind: Deployment
apiVersion: extensions/v1beta1
metadata: {name: web}
spec:
  replicas: 1
  template:
    metadata: {labels: {app: web}}
    spec:
      nodeSelector: {zone: nowhere}
      containers: [{name: main, image: "busybox:1.30"}]
`

// TestSetAndRolloutOfEveryKind: set, and what rollout knows of each change.
func TestSetAndRolloutOfEveryKind(t *testing.T) {
	atOnce(t, every, func(t *testing.T, k cli) {
		session(t, k, map[string]string{"idle.yml": idle}, `
$ create -f @idle.yml
statefulset.apps/db created
daemonset.apps/agent created
replicationcontroller/old created
deployment.extensions/web created
$~ rollout history deployment/web
~ ^1 
$~ rollout history statefulset/db --revision=1
~ ^    Image:\s+busybox:1.30$
$~ rollout history daemonset/agent
~ ^1 
$ create configmap settings --from-literal=COLOR=blue
$ create secret generic password --from-literal=PASSWORD=whale
$ set env deployment/web A=1 B=2
deployment.apps/web env updated
$~ rollout history deployment/web
~ ^2 
$ set env deployment/web A-
$~ rollout history deployment/web
~ ^3 
$ set env deployment/web --from=configmap/settings --prefix=MY_
$~ rollout history deployment/web
~ ^4 
$ set env deployment/web --from=secret/password
$~ rollout history deployment/web
~ ^5 
$ set env deployment/web --list --resolve
# Deployment web, container main
B=2
MY_COLOR=blue
PASSWORD=whale
$ set image deployment/web statefulset/db daemonset/agent '*=busybox:1.31' --record
deployment.apps/web image updated
statefulset.apps/db image updated
daemonset.apps/agent image updated
$~ rollout history deployment/web
~ ^6 
$ set resources deployment/web --limits=cpu=200m,memory=64Mi --requests=cpu=10m,memory=16Mi
deployment.apps/web resource requirements updated
$ set serviceaccount deployment web default
deployment.apps/web serviceaccount updated
$ get deploy web -o jsonpath={.spec.template.spec.serviceAccountName}{.spec.template.spec.containers[*].resources}{.spec.template.spec.containers[*].image}
default{"limits":{"cpu":"200m","memory":"64Mi"},"requests":{"cpu":"10m","memory":"16Mi"}}busybox:1.31
$~ rollout history deployment/web
~ ^REVISION +CHANGE-CAUSE$
~ ^5 +<none>$
~ ^6 +\S+ set image deployment/web .*--record=true$
$ rollout history deployment/web --revision=2
~ ^deployment.apps/web with revision #2$
~ ^      A:\s+1$
$~ rollout history statefulset/db --revision=2
~ ^statefulset.apps/db with revision #2$
~ ^    Image:\s+busybox:1.31$
$~ rollout history daemonset/agent
~ ^2 +\S+ set image .*--record=true$
$ rollout history daemonset/agent --revision=1
~ ^    Image:\s+busybox:1.30$
$ rollout undo deployment/web --to-revision=1 --dry-run=server
~ ^deployment.apps/web rolled back
$ rollout undo deployment/web --to-revision=1
deployment.apps/web rolled back
$ rollout undo statefulset/db --to-revision=1
statefulset.apps/db rolled back
$ rollout undo daemonset/agent
daemonset.apps/agent rolled back
$ get deploy,sts,ds -o jsonpath={.items[*].spec.template.spec.containers[0].image}
busybox:1.30 busybox:1.30 busybox:1.30
$! rollout undo deployment/web --to-revision=99
~ unable to find specified revision 99 in history
$ rollout status daemonset/agent
daemon set "agent" successfully rolled out
$ rollout status statefulset/db
~ roll ?out complete
$~! rollout status deployment/web --timeout=3s
~ Waiting for deployment "web" rollout to finish: 
$ rollout pause deployment/web
deployment.apps/web paused
$! rollout pause deployment/web
~ deployments.apps "web" is already paused
$! rollout undo deployment/web
~ cannot rollback a paused deployment
$! rollout restart deployment/web
~ can't restart paused deployment
$ rollout resume deployment/web
deployment.apps/web resumed
$ rollout restart deployment/web statefulset/db daemonset/agent
deployment.apps/web restarted
statefulset.apps/db restarted
daemonset.apps/agent restarted
$! rollout pause statefulset/db
~ pausing is not supported
$ create rolebinding readers --clusterrole=view --user=bob
$ set subject rolebinding readers --user=alice --group=devs
rolebinding.rbac.authorization.k8s.io/readers subjects updated
$ get rolebinding readers -o jsonpath={.subjects[*].name}
bob alice devs
$~ get deploy
~ ^NAME +READY +UP-TO-DATE +AVAILABLE +AGE$
~ ^web +0/1 +1 +0 +\S+$
$~ get sts,ds -o wide
~ ^NAME +READY +AGE +CONTAINERS +IMAGES$
~ ^statefulset.apps/db +0/0 +\S+ +main +busybox:1.30$
~ ^NAME +DESIRED +CURRENT +READY +UP-TO-DATE +AVAILABLE +NODE SELECTOR +AGE +CONTAINERS +IMAGES +SELECTOR$
~ ^daemonset.apps/agent +0 +0 +0 +0 +0 +zone=nowhere +\S+ +main +busybox:1.30 +app=agent$
$ get rs
~ ^NAME +DESIRED +CURRENT +READY +AGE$
`)
	})
}

// TestScaleAndExposeEveryKind: both places of the flag, several objects at a time, and a Service for each kind.
func TestScaleAndExposeEveryKind(t *testing.T) {
	atOnce(t, []cli{wpctl, every[len(every)-1]}, func(t *testing.T, k cli) {
		session(t, k, map[string]string{"idle.yml": idle}, `
$ create -f @idle.yml
$ scale deployment web --replicas=2
deployment.apps/web scaled
$ scale --replicas 3 deployment web
deployment.apps/web scaled
$ scale --replicas=2 deployment/web statefulset/db rc/old
deployment.apps/web scaled
statefulset.apps/db scaled
replicationcontroller/old scaled
$ scale rc old --replicas=3 --timeout=1m
replicationcontroller/old scaled
$~ get rc
~ ^NAME +DESIRED +CURRENT +READY +AGE$
~ ^old +3 +3 +0 
$! scale --current-replicas=9 --replicas=1 deployment/web
~ Expected replicas to be 9, was 2
$ scale --current-replicas=2 --replicas=1 deployment/web --timeout=1m
deployment.apps/web scaled
$ scale --all --replicas=0 deployment
deployment.apps/web scaled
$! scale daemonset agent --replicas=1
~ \(NotFound\): the server could not find the requested resource
$! scale deployment nobody --replicas=1
~ deployments.apps "nobody" not found
$ get deploy,sts,rc -o jsonpath={.items[*].spec.replicas}
0 2 3
$ expose deployment web --type=LoadBalancer --port 80 --target-port 8080
service/web exposed
$ expose rc old
service/old exposed
$ expose rc old --name=outer --port=80 --target-port=http --session-affinity=ClientIP --type=NodePort -l app=else
service/outer exposed
$ expose service web --name=again --port=443 --protocol=UDP
service/again exposed
$ get services -o wide
~ ^web +LoadBalancer +\S+ +\S+ +80:3\d{4}/TCP +\S+ +app=web$
~ ^old +ClusterIP +\S+ +<none> +99/TCP +\S+ +app=old$
~ ^outer +NodePort +\S+ +<none> +80:3\d{4}/TCP +\S+ +app=old$
~ ^again +ClusterIP +\S+ +<none> +443/UDP +\S+ +app=web$
$! expose deployment web --name=more
~ couldn't find port via --port flag or introspection
$! expose statefulset db --port=80
~ cannot expose a StatefulSet.apps
$ set selector service again app=other
service/again selector updated
$ describe service outer
~ ^Selector: +app=old$
~ ^TargetPort: +http/TCP$
~ ^Session Affinity: +ClientIP$
`)
	})
}
