package resource

import (
	"context"
	"fmt"
	"strings"
	_ "time/tzdata" // spec.timeZone means the same on servers without a time zone database

	batchv1 "k8s.io/api/batch/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"
	jobutil "k8s.io/kubernetes/pkg/api/job"
	podutil "k8s.io/kubernetes/pkg/api/pod"
	"k8s.io/kubernetes/pkg/apis/batch"
	"k8s.io/kubernetes/pkg/apis/batch/validation"
)

func cronJobs() *Resource {
	return &Resource{
		Name: "cronjobs", Singular: "cronjob", Kind: "CronJob", ListKind: "CronJobList", Namespaced: true,
		ShortNames: []string{"cj"}, Categories: categoryAll, Verbs: allVerbs,
		Storage: batchV1, Served: served(batchV1, batchV1beta1),
		Subresources: map[string]Subresource{"status": statusOf(batchV1, "CronJob")},
		rules:        cronJobRules(),
	}
}

func cronJobRules() Rules {
	return Rules{
		PrepareCreate: func(obj Object) {
			cron := obj.(*batchv1.CronJob)
			cron.Status = batchv1.CronJobStatus{}
			cron.Generation = 1
			dropDisabledTemplateFields(&cron.Spec.JobTemplate.Spec.Template, nil)
		},
		PrepareUpdate: func(obj, old Object) {
			cron, before := obj.(*batchv1.CronJob), old.(*batchv1.CronJob)
			cron.Status = before.Status
			dropDisabledTemplateFields(&cron.Spec.JobTemplate.Spec.Template, &before.Spec.JobTemplate.Spec.Template)
			keepGeneration(cron, before, differ(cron.Spec, before.Spec))
		},
		PrepareStatus: func(obj, old Object) {
			cron, before := obj.(*batchv1.CronJob), old.(*batchv1.CronJob)
			cron.Spec, cron.Generation = before.Spec, before.Generation
		},
		Validate: validate(func(in *batch.CronJob) field.ErrorList {
			return validation.ValidateCronJobCreate(in, podutil.GetValidationOptionsFromPodTemplate(&in.Spec.JobTemplate.Spec.Template, nil))
		}),
		ValidateUpdate: validateChange(func(in, old *batch.CronJob) field.ErrorList {
			o := podutil.GetValidationOptionsFromPodTemplate(&in.Spec.JobTemplate.Spec.Template, &old.Spec.JobTemplate.Spec.Template)
			return validation.ValidateCronJobUpdate(in, old, o)
		}),
		// Nothing in it can be wrong, as in Kubernetes.
		ValidateStatus:           func(context.Context, Object, Object) field.ErrorList { return nil },
		Warnings:                 warnings(cronJobWarnings),
		AllowUnconditionalUpdate: true,
		OrphanByDefault:          served(batchV1beta1),
		Reset:                    specAndStatus(),
	}
}

func cronJobWarnings(ctx context.Context, in, old *batch.CronJob) []string {
	path := field.NewPath("spec", "jobTemplate", "spec")
	if old == nil {
		return append(nameWarnings(in.Name), jobutil.WarningsForJobSpec(ctx, path, &in.Spec.JobTemplate.Spec, nil)...)
	}
	var out []string
	if in.Generation != old.Generation {
		out = jobutil.WarningsForJobSpec(ctx, path, &in.Spec.JobTemplate.Spec, &old.Spec.JobTemplate.Spec)
	}
	if strings.Contains(in.Spec.Schedule, "TZ") {
		out = append(out, fmt.Sprintf("cannot use TZ or CRON_TZ in %s, use timeZone instead, see https://kubernetes.io/docs/concepts/workloads/controllers/cron-jobs/ for more details", field.NewPath("spec", "spec", "schedule")))
	}
	return out
}
