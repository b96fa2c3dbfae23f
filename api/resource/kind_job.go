package resource

import (
	"context"
	"fmt"
	"maps"
	"strconv"

	batchv1 "k8s.io/api/batch/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	metav1validation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	utilvalidation "k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	jobutil "k8s.io/kubernetes/pkg/api/job"
	podutil "k8s.io/kubernetes/pkg/api/pod"
	"k8s.io/kubernetes/pkg/apis/batch"
	"k8s.io/kubernetes/pkg/apis/batch/validation"
	"k8s.io/utils/ptr"
)

func jobs() *Resource {
	return &Resource{
		Name: "jobs", Singular: "job", Kind: "Job", ListKind: "JobList", Namespaced: true,
		Categories: categoryAll, Storage: batchV1, Served: served(batchV1), Verbs: allVerbs,
		Subresources: map[string]Subresource{"status": statusOf(batchV1, "Job")},
		rules:        jobRules(),
	}
}

func jobRules() Rules {
	return Rules{
		PrepareCreate: func(obj Object) {
			job := obj.(*batchv1.Job)
			job.Labels = maps.Clone(job.Labels) // defaults may have taken them from the template: the map is shared
			if !ptr.Deref(job.Spec.ManualSelector, false) {
				generateSelector(job)
			}
			job.Status = batchv1.JobStatus{}
			job.Generation = 1
			dropDisabledTemplateFields(&job.Spec.Template, nil)
		},
		PrepareUpdate: func(obj, old Object) {
			job, before := obj.(*batchv1.Job), old.(*batchv1.Job)
			job.Status = before.Status
			dropDisabledTemplateFields(&job.Spec.Template, &before.Spec.Template)
			keepGeneration(job, before, differ(job.Spec, before.Spec))
		},
		PrepareStatus: func(obj, old Object) {
			job, before := obj.(*batchv1.Job), old.(*batchv1.Job)
			job.Spec, job.Generation = before.Spec, before.Generation
		},
		Validate: validate(func(in *batch.Job) field.ErrorList {
			return validation.ValidateJob(in, jobOptions(in, nil))
		}),
		ValidateUpdate: validateChange(func(in, old *batch.Job) field.ErrorList {
			o := jobOptions(in, old)
			return append(validation.ValidateJob(in, o), validation.ValidateJobUpdate(in, old, o)...)
		}),
		ValidateStatus: validateChange(func(in, old *batch.Job) field.ErrorList {
			return validation.ValidateJobUpdateStatus(in, old, jobStatusOptions(in, old))
		}),
		Warnings: warnings(func(ctx context.Context, in, old *batch.Job) []string {
			if old == nil {
				return append(nameWarnings(in.Name), jobutil.WarningsForJobSpec(ctx, field.NewPath("spec"), &in.Spec, nil)...)
			}
			if in.Generation == old.Generation {
				return nil
			}
			return jobutil.WarningsForJobSpec(ctx, field.NewPath("spec"), &in.Spec, &old.Spec)
		}),
		Fields: func(obj Object) map[string]string {
			return map[string]string{"status.successful": strconv.Itoa(int(obj.(*batchv1.Job).Status.Succeeded))}
		},
		AllowUnconditionalUpdate: true,
		OrphanByDefault:          served(batchV1), // as Jobs of the first releases did
		Reset:                    specAndStatus(),
	}
}

// nameWarnings are those about names that pods' names and host names are made of.
func nameWarnings(name string) []string {
	msgs := utilvalidation.IsDNS1123Label(name)
	if len(msgs) == 0 {
		return nil
	}
	return []string{fmt.Sprintf("metadata.name: this is used in Pod names and hostnames, which can result in surprising behavior; a DNS label is recommended: %v", msgs)}
}

// generateSelector labels the template with the Job's name and UID, under the names of old and new, and selects by the UID.
// What the user has set there stays, for validation to refuse.
func generateSelector(job *batchv1.Job) {
	labels := map[string]string{}
	for _, key := range []string{"job-name", batchv1.JobNameLabel} {
		labels[key] = job.Name
	}
	for _, key := range []string{"controller-uid", batchv1.ControllerUidLabel} {
		labels[key] = string(job.UID)
	}
	maps.Copy(labels, job.Spec.Template.Labels)
	job.Spec.Template.Labels = labels
	if job.Spec.Selector == nil {
		job.Spec.Selector = &metav1.LabelSelector{}
	}
	match := map[string]string{batchv1.ControllerUidLabel: string(job.UID)}
	maps.Copy(match, job.Spec.Selector.MatchLabels)
	job.Spec.Selector.MatchLabels = match
}

// jobOptions say what an update may change: what pods are scheduled by, and their resources, while the Job is suspended and
// has no pods.
func jobOptions(in, old *batch.Job) validation.JobValidationOptions {
	if old == nil {
		return validation.JobValidationOptions{
			PodValidationOptions:  podutil.GetValidationOptionsFromPodTemplate(&in.Spec.Template, nil),
			RequirePrefixedLabels: true,
		}
	}
	suspended := ptr.Deref(old.Spec.Suspend, false)
	mutable := suspended && old.Status.Active == 0 &&
		(old.Status.StartTime == nil || validation.IsConditionTrue(old.Status.Conditions, batch.JobSuspended))
	_, named := old.Spec.Template.Labels[batch.JobNameLabel]
	_, owned := old.Spec.Template.Labels[batch.ControllerUidLabel]
	pods := podutil.GetValidationOptionsFromPodTemplate(&in.Spec.Template, &old.Spec.Template)
	pods.AllowInvalidLabelValueInSelector = pods.AllowInvalidLabelValueInSelector || metav1validation.LabelSelectorHasInvalidLabelValue(old.Spec.Selector)
	return validation.JobValidationOptions{
		PodValidationOptions:             pods,
		AllowMutablePodResources:         mutable,
		AllowMutableSchedulingDirectives: mutable,
		RequirePrefixedLabels:            named && owned,
	}
}

// jobStatusOptions: only what a write changes is checked, so that a status which a change of the spec has made wrong can be
// written at all.
func jobStatusOptions(in, old *batch.Job) validation.JobStatusValidationOptions {
	is := func(kind batch.JobConditionType, job *batch.Job) bool {
		return validation.IsConditionTrue(job.Status.Conditions, kind)
	}
	changed := func(kind batch.JobConditionType) bool { return is(kind, in) != is(kind, old) }
	finished := validation.IsJobFinished(old) != validation.IsJobFinished(in)
	completed, failed := changed(batch.JobComplete), changed(batch.JobFailed)
	completedIndexes := old.Status.CompletedIndexes != in.Status.CompletedIndexes
	failedIndexes := !ptr.Equal(old.Status.FailedIndexes, in.Status.FailedIndexes)
	active, ready := old.Status.Active != in.Status.Active, !ptr.Equal(old.Status.Ready, in.Status.Ready)
	started := !in.Status.StartTime.Equal(old.Status.StartTime)
	ended := !in.Status.CompletionTime.Equal(old.Status.CompletionTime)
	emptyAndSuspended := ptr.Deref(in.Spec.Suspend, false) && ptr.Equal(in.Spec.Completions, ptr.To[int32](0))
	resuming := is(batch.JobSuspended, old) && validation.IsConditionFalse(in.Status.Conditions, batch.JobSuspended)
	// An elastic Job may be scaled down below what has succeeded.
	elastic := ptr.Deref(in.Spec.CompletionMode, batch.NonIndexedCompletion) == batch.IndexedCompletion &&
		ptr.Equal(in.Spec.Completions, in.Spec.Parallelism)
	return validation.JobStatusValidationOptions{
		RejectDecreasingSucceededCounter:             !elastic,
		RejectDecreasingFailedCounter:                true,
		RejectDisablingTerminalCondition:             true,
		RejectInvalidCompletedIndexes:                completedIndexes,
		RejectInvalidFailedIndexes:                   failedIndexes,
		RejectCompletedIndexesForNonIndexedJob:       completedIndexes,
		RejectFailedIndexesForNoBackoffLimitPerIndex: failedIndexes,
		RejectFailedIndexesOverlappingCompleted:      failedIndexes || completedIndexes,
		RejectFailedJobWithoutFailureTarget:          failed || failedIndexes,
		RejectCompleteJobWithoutSuccessCriteriaMet:   completed || changed(batch.JobSuccessCriteriaMet),
		RejectFinishedJobWithActivePods:              finished || active,
		RejectFinishedJobWithoutStartTime:            (finished || started) && !emptyAndSuspended,
		RejectFinishedJobWithUncountedTerminatedPods: finished || differ(old.Status.UncountedTerminatedPods, in.Status.UncountedTerminatedPods),
		RejectStartTimeUpdateForUnsuspendedJob:       started && !resuming,
		RejectCompletionTimeBeforeStartTime:          started || ended,
		RejectMutatingCompletionTime:                 true,
		RejectNotCompleteJobWithCompletionTime:       completed || ended,
		RejectCompleteJobWithoutCompletionTime:       completed || ended,
		RejectCompleteJobWithFailedCondition:         completed || failed,
		RejectCompleteJobWithFailureTargetCondition:  completed || changed(batch.JobFailureTarget),
		AllowForSuccessCriteriaMetInExtendedScope:    true,
		RejectMoreReadyThanActivePods:                ready || active,
		RejectFinishedJobWithTerminatingPods:         finished || !ptr.Equal(old.Status.Terminating, in.Status.Terminating),
	}
}
