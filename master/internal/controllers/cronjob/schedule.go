package cronjob

import (
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/robfig/cron/v3"
	batchv1 "k8s.io/api/batch/v1"
)

// many is how many missed times are so many that the user is told that something is wrong with the clock or the deadline.
const many = 100

// parse reads a schedule in its time zone; without one it is the master's own.
func parse(spec *batchv1.CronJobSpec) (s cron.Schedule, err error) {
	defer func() { // the library panics at some texts (robfig/cron#554)
		if r := recover(); r != nil {
			s, err = nil, fmt.Errorf("invalid schedule format: %v", r)
		}
	}()
	text := spec.Schedule
	if spec.TimeZone != nil && !namesZone(spec) {
		text = "TZ=" + *spec.TimeZone + " " + text
	}
	return cron.ParseStandard(text)
}

// namesZone says that the schedule itself names a time zone, which was never supported and still works.
func namesZone(spec *batchv1.CronJobSpec) bool { return strings.Contains(spec.Schedule, "TZ") }

var errNever = errors.New("time difference between two schedules is less than 1 second")

// lastDue is the latest time in (after, now] that the schedule names, zero for none, and whether very many were missed.
//
// The times between are not walked through: a clock that was wrong by decades would keep the processor busy. The distance of
// the first two is taken for that of all, one step is left for those whose distances differ, and from there it is walked.
func lastDue(s cron.Schedule, after, now time.Time) (due time.Time, tooMany bool, err error) {
	first := s.Next(after)
	if first.IsZero() || now.Before(first) {
		return time.Time{}, false, nil
	}
	second := s.Next(first)
	if second.IsZero() || now.Before(second) {
		return first, false, nil
	}
	step := second.Sub(first).Round(time.Second)
	if step < time.Second {
		return time.Time{}, false, errNever
	}
	missed := int64(now.Sub(first)/step) + 1
	from := first.Add(time.Duration(missed-2) * step)
	for t := s.Next(from); !t.IsZero() && !t.After(now); t = s.Next(t) {
		due = t
	}
	return due, missed > many, nil
}
