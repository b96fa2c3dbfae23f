//go:build e2e

package e2e

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

var (
	jobColumns     = []string{"NAME", "STATUS", "COMPLETIONS", "DURATION", "AGE"}
	cronJobColumns = []string{"NAME", "SCHEDULE", "TIMEZONE", "SUSPEND", "ACTIVE", "LAST SCHEDULE", "AGE"}
)

const jobsManifest = `
apiVersion: batch/v1
kind: Job
metadata: {name: three}
spec:
  completions: 3
  parallelism: 2
  template: {spec: {restartPolicy: Never, containers: [{name: c, image: busybox, command: [sh, -c, "echo counted; sleep 1"]}]}}
---
apiVersion: batch/v1
kind: Job
metadata: {name: parts}
spec:
  completions: 4
  parallelism: 4
  completionMode: Indexed
  template: {spec: {restartPolicy: OnFailure, containers: [{name: c, image: busybox, command: [sh, -c, "echo part $JOB_COMPLETION_INDEX of $(hostname)"]}]}}
---
apiVersion: batch/v1
kind: Job
metadata: {name: bad}
spec:
  backoffLimit: 1
  template: {spec: {restartPolicy: Never, containers: [{name: c, image: busybox, command: [sh, -c, "echo no; exit 3"]}]}}
---
apiVersion: batch/v1
kind: Job
metadata: {name: picky}
spec:
  backoffLimit: 6
  podFailurePolicy: {rules: [{action: FailJob, onExitCodes: {operator: In, values: [42]}}]}
  template: {spec: {restartPolicy: Never, containers: [{name: c, image: busybox, command: [sh, -c, "exit 42"]}]}}
---
apiVersion: batch/v1
kind: Job
metadata: {name: brief}
spec:
  ttlSecondsAfterFinished: 1
  template: {spec: {restartPolicy: Never, containers: [{name: c, image: busybox, command: ["true"]}]}}
`

// TestJobs: plain, by index, failing, failing at once by policy, and one that cleans up after itself.
func TestJobs(t *testing.T) {
	t.Parallel()
	k := newest.in(t, namespace(t))
	k.feed(t, jobsManifest, "apply", "-f", "-")
	k.run(t, "wait", "--for=condition=complete", "job/three", "job/parts", "--timeout=3m")
	k.run(t, "wait", "--for=condition=failed", "job/bad", "job/picky", "--timeout=3m")
	k.run(t, "wait", "--for=delete", "job/brief", "--timeout=3m")

	jobs := table(t, k.run(t, "get", "jobs")).has(jobColumns...)
	for name, want := range map[string][2]string{"three": {"Complete", "3/3"}, "parts": {"Complete", "4/4"}, "bad": {"Failed", "0/1"}, "picky": {"Failed", "0/1"}} {
		if row := jobs.row(name); row["STATUS"] != want[0] || row["COMPLETIONS"] != want[1] {
			t.Errorf("get jobs shows %v", row)
		}
	}
	for name, want := range map[string]int{"three": 3, "parts": 4, "bad": 2, "picky": 1, "brief": 0} {
		if got := strings.Fields(k.run(t, "get", "pods", "-l", "job-name="+name, "-o", "name")); len(got) != want {
			t.Errorf("%s has pods %v, not %d", name, got, want)
		}
	}
	for i := range 4 {
		prints(t, "logs of a part", k.run(t, "logs", "-l", fmt.Sprintf("job-name=parts,batch.kubernetes.io/job-completion-index=%d", i)), fmt.Sprintf(`^part %d of parts-%d$`, i, i))
	}
	prints(t, "describe", k.run(t, "describe", "job", "three"), `^Parallelism: +2$`, `^Completions: +3$`, `^Pods Statuses: +0 Active \(0 Ready\) / 3 Succeeded / 0 Failed$`,
		`Normal +SuccessfulCreate .* job-controller +Created pod: three-`, `Normal +Completed .* job-controller +Job completed$`)
	prints(t, "describe", k.run(t, "describe", "job", "bad"), `Warning +BackoffLimitExceeded .* job-controller +Job has reached the specified backoff limit$`)
	prints(t, "describe", k.run(t, "describe", "job", "picky"), `Warning +PodFailurePolicy .* failed with exit code 42 matching FailJob rule at index 0$`)
	eventually(t, settle, "counted pods have no finalizers", func() error {
		if left := k.run(t, "get", "pods", "-o", "jsonpath={.items[*].metadata.finalizers}"); strings.TrimSpace(left) != "" {
			return errors.New(left)
		}
		return nil
	})
}

// TestSuspendedJob: its pods go, and come again when it goes on.
func TestSuspendedJob(t *testing.T) {
	t.Parallel()
	k := newest.in(t, namespace(t))
	k.run(t, "create", "job", "long", "--image=busybox", "--", "sleep", "3600")
	podsReady(t, k, "job-name=long", 1)
	k.run(t, "patch", "job", "long", "-p", `{"spec":{"suspend":true}}`)
	noPods(t, k, "job-name=long")
	if row := table(t, k.run(t, "get", "job", "long")).row("long"); row["STATUS"] != "Suspended" {
		t.Errorf("get job shows %v", row)
	}
	k.run(t, "patch", "job", "long", "-p", `{"spec":{"suspend":false}}`)
	podsReady(t, k, "job-name=long", 1)
}

// TestDeletedJob: with every cascade, and no pod is held by its finalizer.
func TestDeletedJob(t *testing.T) {
	t.Parallel()
	withEach(t, func(t *testing.T, k cli) {
		k = k.in(t, namespace(t))
		for _, cascade := range []string{"background", "foreground", "orphan"} {
			k.run(t, "create", "job", cascade, "--image=busybox", "--", "sleep", "3600")
		}
		for _, cascade := range []string{"background", "foreground", "orphan"} {
			podsReady(t, k, "job-name="+cascade, 1)
			prints(t, "delete", k.run(t, "delete", "job", cascade, "--cascade="+cascade), `^job.batch "`+cascade+`" deleted`)
		}
		noPods(t, k, "job-name=background")
		noPods(t, k, "job-name=foreground")
		podsReady(t, k, "job-name=orphan", 1)
		eventually(t, settle, "the orphan is nobody's", func() error {
			if held := k.run(t, "get", "pods", "-l", "job-name=orphan", "-o", "jsonpath={.items[*].metadata.finalizers}{.items[*].metadata.ownerReferences}"); held != "" {
				return fmt.Errorf("it has %s", held)
			}
			return nil
		})
		k.run(t, "delete", "pod", "-l", "job-name=orphan", "--grace-period=1")
	})
}

const oldCronJob = `
apiVersion: batch/v1beta1
kind: CronJob
metadata: {name: hello}
spec:
  schedule: "*/1 * * * *"
  jobTemplate:
    spec:
      template:
        spec:
          restartPolicy: OnFailure
          containers: [{name: hello, image: busybox, args: [/bin/sh, -c, "date; echo Hello from the cluster"]}]
`

// TestCronJobOfOldPosts is the CronJob of Kubernetes' own tutorial as posts have it, and what they type; it waits for a real
// minute.
func TestCronJobOfOldPosts(t *testing.T) {
	t.Parallel()
	withEach(t, func(t *testing.T, k cli) {
		t.Parallel()
		k = k.in(t, namespace(t))
		prints(t, "apply", k.feed(t, oldCronJob, "apply", "-f", "-"), `^cronjob.batch/hello created$`)
		row := table(t, k.run(t, "get", "cronjob", "hello")).has(cronJobColumns...).row("hello")
		if row["SCHEDULE"] != "*/1 * * * *" || row["SUSPEND"] != "False" || row["TIMEZONE"] != "<none>" {
			t.Errorf("get cronjob shows %v", row)
		}
		from := "cronjob/hello"
		if k.name == "kubectl-1.20" { // it knows the old version alone, and must be told to ask for it
			from = "cronjob.v1beta1.batch/hello"
		}
		prints(t, "create job", k.run(t, "create", "job", "--from="+from, "by-hand"), `^job.batch/by-hand created$`)
		k.run(t, "wait", "--for=condition=complete", "job/by-hand", "--timeout=3m")
		prints(t, "logs", k.run(t, "logs", "job/by-hand"), `^Hello from the cluster$`)
		prints(t, "create cronjob", k.run(t, "create", "cronjob", "never", "--image=busybox", "--schedule=0 0 29 2 *", "--", "date"), `^cronjob.batch/never created$`)

		var job string
		eventually(t, 2*time.Minute, "the clock makes a Job", func() error {
			names := strings.Fields(k.run(t, "get", "jobs", "-o", "jsonpath={.items[*].metadata.name}"))
			i := slices.IndexFunc(names, func(n string) bool { return strings.HasPrefix(n, "hello-") })
			if i < 0 {
				return fmt.Errorf("there are %v", names)
			}
			job = names[i]
			return nil
		})
		k.run(t, "wait", "--for=condition=complete", "job/"+job, "--timeout=3m")
		prints(t, "logs", k.run(t, "logs", "job/"+job), `^Hello from the cluster$`)
		at := k.run(t, "get", "job", job, "-o", `jsonpath={.metadata.annotations.batch\.kubernetes\.io/cronjob-scheduled-timestamp}`)
		if scheduled, err := time.Parse(time.RFC3339, at); err != nil || job != fmt.Sprintf("hello-%d", scheduled.Unix()/60) {
			t.Errorf("%s was due at %q: %v", job, at, err)
		}
		eventually(t, settle, "the CronJob has noted it", func() error {
			if row := table(t, k.run(t, "get", "cronjob")).row("hello"); row["LAST SCHEDULE"] == "<none>" {
				return fmt.Errorf("get cronjob shows %v", row)
			}
			return nil
		})
		prints(t, "describe", k.run(t, "describe", "cronjob", "hello"), `Normal +SuccessfulCreate .* cronjob-controller +Created job `+job+`$`)
		k.run(t, "delete", "cronjob", "hello")
		noPods(t, k, "job-name="+job)
	})
}

// TestBackupCronJob is examples/cronjob-backup.yml beside WordPress: a backup at once, one by the clock, and files with the
// database in them.
func TestBackupCronJob(t *testing.T) {
	emptyDefault(t)
	t.Cleanup(func() { cleanUp(t, "delete", "cronjobs,jobs", "--all", "--timeout=3m") })
	// The nodes share the machine's disk: what is there already is somebody's, or of a run that was broken off, and is not counted.
	const dir = "/var/backups/wordpress"
	old, _ := filepath.Glob(dir + "/*") // the pattern is good
	t.Cleanup(func() {
		now, _ := filepath.Glob(dir + "/*")
		for _, file := range now {
			if !slices.Contains(old, file) {
				_ = os.RemoveAll(file)
			}
		}
	})
	prints(t, "apply", kubectl(t, "apply", "-f", example("app-wordpress3.yml"), "-f", example("cronjob-backup.yml")), `^cronjob.batch/wordpress-backup created$`)
	// It is half past three in Tokyo once a day.
	kubectl(t, "patch", "cronjob", "wordpress-backup", "-p", `{"spec":{"suspend":true}}`)
	podsReady(t, newest, "app=wordpress-mysql", 1)
	podsReady(t, newest, "app=wordpress", 2)
	onEveryAddress(t, 30080, "install.php")
	installWordPress(t, cluster.Node(1))
	row := table(t, kubectl(t, "get", "cronjob")).has(cronJobColumns...).row("wordpress-backup")
	if row["TIMEZONE"] != "Asia/Tokyo" || row["SCHEDULE"] != "30 3 * * *" || row["LAST SCHEDULE"] != "<none>" {
		t.Errorf("get cronjob shows %v", row)
	}
	prints(t, "create job", kubectl(t, "create", "job", "--from=cronjob/wordpress-backup", "try-it"), `^job.batch/try-it created$`)
	eventually(t, settle, "the first backup", func() error {
		if row := table(t, kubectl(t, "get", "jobs")).row("try-it"); row["STATUS"] != "Complete" {
			return fmt.Errorf("get jobs shows %v\n%s", row, newest.try(t, "logs", "-l", "job-name=try-it").stdout)
		}
		return nil
	})
	prints(t, "logs", kubectl(t, "logs", "job/try-it"), `wordpress-[0-9]{8}-[0-9]{6}\.sql\.gz$`)

	// By the clock: the same, every minute, on the node that the first one was on.
	node := kubectl(t, "get", "pod", "-l", "job-name=try-it", "-o", "jsonpath={.items[0].spec.nodeName}")
	kubectl(t, "patch", "cronjob", "wordpress-backup", "-p",
		`{"spec":{"suspend":false,"schedule":"* * * * *","jobTemplate":{"spec":{"template":{"spec":{"nodeSelector":{"kubernetes.io/hostname":"`+node+`"}}}}}}}`)
	eventually(t, 3*time.Minute, "the backup by the clock", func() error {
		last := kubectl(t, "get", "cronjob", "wordpress-backup", "-o", "jsonpath={.status.lastSuccessfulTime} {.status.lastScheduleTime}")
		if fields := strings.Fields(last); len(fields) < 2 || fields[0] < fields[1] {
			return fmt.Errorf("last success and start: %q", last)
		}
		return nil
	})
	kubectl(t, "patch", "cronjob", "wordpress-backup", "-p", `{"spec":{"suspend":true}}`)
	kubectl(t, "run", "reader", "--image=mysql", "--restart=Never", "--overrides",
		`{"spec":{"nodeName":"`+node+`","containers":[{"name":"reader","image":"mysql","command":["sh","-c","cd /backups; for f in *.gz; do echo $f $(zcat $f | grep -c Whales); done"],`+
			`"volumeMounts":[{"name":"b","mountPath":"/backups"}]}],"volumes":[{"name":"b","hostPath":{"path":"/var/backups/wordpress"}}]}}`)
	kubectl(t, "wait", "--for=jsonpath={.status.phase}=Succeeded", "pod/reader", "--timeout=2m")
	said, made := kubectl(t, "logs", "reader"), 0
	for line := range strings.Lines(said) {
		name, lines, _ := strings.Cut(strings.TrimSpace(line), " ")
		if slices.Contains(old, filepath.Join(dir, name)) {
			continue
		}
		if made++; lines == "0" || lines == "" {
			t.Errorf("%s does not have the blog's title in it", name)
		}
	}
	if made < 2 {
		t.Errorf("%d backups were made:\n%s", made, said)
	}
}
