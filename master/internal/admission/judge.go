package admission

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"

	"github.com/google/cel-go/common/types"
	"github.com/google/cel-go/common/types/ref"
	admissionv1 "k8s.io/api/admissionregistration/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/whalepod/whalepod/api/resource"
)

// maxAuditValue cuts the values of audit annotations, in bytes.
const maxAuditValue = 10 << 10

// finding is what a policy has against a request.
type finding struct {
	message string
	reason  metav1.StatusReason
}

// refusal is a finding that counts. binding is nil when it is about the policy itself.
type refusal struct {
	finding
	policy  *policy
	binding *policyBinding
}

// judge asks the validating policies. All of them are asked, since some only warn; the first refusal is the answer.
func (b *Backend) judge(ctx context.Context, all []*policy, a *attributes) error {
	j := judgement{b: b, a: a, sight: sight{b: b, a: a}}
	for _, p := range all {
		if err := j.ask(ctx, p); err != nil {
			return err
		}
	}
	if j.first == nil {
		return nil
	}
	return j.first.status(a)
}

// judgement is one request's.
type judgement struct {
	b     *Backend
	a     *attributes
	sight sight
	first *refusal
}

func (j *judgement) refuse(p *policy, bound *policyBinding, f finding) {
	if j.first == nil {
		j.first = &refusal{f, p, bound}
	}
}

// misconfigured is what a policy means for a request when it cannot be said what it would have said.
func (j *judgement) misconfigured(p *policy, bound *policyBinding, err error) {
	if p.lenient {
		return
	}
	what := "binding"
	if bound == nil {
		what = "policy"
	}
	j.refuse(p, bound, finding{message: fmt.Sprintf("failed to configure %s: %v", what, err)})
}

// ask asks one policy: as often as it is bound, with each of its parameters.
func (j *judgement) ask(ctx context.Context, p *policy) error {
	gv, ok, err := j.b.meant(p, j.a)
	if err != nil {
		j.misconfigured(p, nil, err)
	}
	if err != nil || !ok {
		return nil
	}
	annotations := annotations{}
	for _, bound := range p.bindings {
		params, err := j.b.paramsFor(ctx, p, bound, j.a)
		if err != nil {
			j.misconfigured(p, bound, err)
			continue
		}
		if len(params) == 0 {
			continue
		}
		base, err := j.sight.in(ctx, gv)
		if err != nil {
			j.misconfigured(p, bound, fmt.Errorf("failed to convert object version: %w", err))
			continue
		}
		if err := j.sight.withNamespace(base); err != nil {
			return err
		}
		for _, param := range params {
			in := with(base, param)
			findings, whole := p.validate(ctx, in)
			for i, f := range findings {
				if f != nil {
					j.act(p, bound, i, *f)
				}
			}
			if !whole {
				continue
			}
			for _, f := range p.audit(ctx, in, annotations) {
				j.refuse(p, bound, f)
			}
		}
	}
	annotations.log(j, p)
	return nil
}

// act does what the binding wants done about a finding. There is no audit log; what belongs there is in the master's own.
func (j *judgement) act(p *policy, bound *policyBinding, index int, f finding) {
	for _, action := range bound.actions {
		switch action {
		case admissionv1.Deny:
			j.refuse(p, bound, f)
		case admissionv1.Warn:
			if j.a.warn != nil {
				j.a.warn(fmt.Sprintf("Validation failed for ValidatingAdmissionPolicy '%s' with binding '%s': %s", p.name, bound.name, f.message))
			}
		case admissionv1.Audit:
			j.b.log.Info("audit: validation failed", append(j.a.described(), "policy", p.name, "binding", bound.name, "validation", index, "message", f.message)...)
		}
	}
}

// described is the request as log lines name it.
func (a *attributes) described() []any {
	return []any{
		"user", a.user.Name, "operation", a.operation, "resource", a.res.GroupResource().String(), "subresource", a.sub,
		"namespace", a.namespace, "name", a.name,
	}
}

// failed is an error as a finding; nothing for a lenient policy.
func (p *policy) failed(err error) []*finding {
	if p.lenient {
		return nil
	}
	return []*finding{{message: err.Error()}}
}

// validate evaluates conditions, validations and messages, these only of validations that fail. A finding is nil for what is
// well; whole says that the policy is about the request and could be evaluated to its end.
func (p *policy) validate(ctx context.Context, in resource.CELInput) (list []*finding, whole bool) {
	if ok, err := meet(ctx, p.conditions, resource.NewCELEvaluation(ctx, in, p.computed, resource.CELBudget)); err != nil {
		return p.failed(err), false
	} else if !ok {
		return nil, false
	}
	e := resource.NewCELEvaluation(ctx, in, p.computed, resource.CELPolicyBudget)
	values := make([]ref.Val, len(p.validations))
	errs := make([]error, len(p.validations))
	for i, v := range p.validations {
		if values[i], errs[i] = v.eval(ctx, e); errs[i] != nil && ends(errs[i]) {
			return p.failed(errs[i]), false
		}
	}
	messages := resource.NewCELEvaluation(ctx, in, p.computed, e.Budget())
	list = make([]*finding, len(p.validations))
	for i := range p.validations {
		v := &p.validations[i]
		switch {
		case errs[i] != nil:
			list[i] = one(p.failed(errs[i]))
		case values[i] != types.True:
			message, err := v.say(ctx, messages)
			if err != nil {
				list[i] = one(p.failed(fmt.Errorf("failed messageExpression: %w", err)))
				continue
			}
			list[i] = &finding{message, v.reason}
		}
	}
	return list, true
}

func one(list []*finding) *finding {
	if len(list) == 0 {
		return nil
	}
	return list[0]
}

// say is the message of a failed validation: that of its expression, when it is one that fits in a line, or the fixed one,
// or the expression itself. An error ends all evaluation.
func (v *validation) say(ctx context.Context, e *resource.CELEvaluation) (string, error) {
	if v.compose != nil {
		val, err := v.compose.eval(ctx, e)
		if err != nil && ends(err) {
			return "", err
		}
		if err == nil {
			text, _ := val.Value().(string)
			text = strings.TrimSpace(text)
			if text != "" && len(text) <= resource.CELMaxMessage && !strings.Contains(text, "\n") {
				return text, nil
			}
		}
	}
	if text := strings.TrimSpace(v.message); text != "" {
		return text, nil
	}
	return "failed expression: " + strings.TrimSpace(v.text), nil
}

// annotations are the values of audit annotations by key, of all bindings and parameters of a policy.
type annotations map[string][]string

func (n annotations) add(key, value string) {
	if !slices.Contains(n[key], value) {
		n[key] = append(n[key], value)
	}
}

func (n annotations) log(j *judgement, p *policy) {
	for _, x := range p.audits {
		if values := n[x.key]; len(values) > 0 {
			j.b.log.Info("audit: annotation", append(j.a.described(), "key", p.name+"/"+x.key, "value", strings.Join(values, ", "))...)
		}
		delete(n, x.key)
	}
}

// audit evaluates the audit annotations; those that fail refuse the request unless the policy is lenient.
func (p *policy) audit(ctx context.Context, in resource.CELInput, into annotations) []finding {
	if len(p.audits) == 0 {
		return nil
	}
	e := resource.NewCELEvaluation(ctx, in, p.computed, resource.CELPolicyBudget)
	var out []finding
	for _, x := range p.audits {
		val, err := x.eval(ctx, e)
		if err == nil {
			switch val := val.(type) {
			case types.String:
				if text := strings.TrimSpace(string(val)); text != "" {
					into.add(x.key, text[:min(len(text), maxAuditValue)])
				}
				continue
			case types.Null:
				continue
			}
			//lint:ignore ST1005 Kubernetes' words
			err = fmt.Errorf("valueExpression '%v' resulted in unsupported return type: %v. Return type must be either string or null.", x.text, val.Type())
		}
		for _, f := range p.failed(err) {
			out = append(out, *f)
		}
		if ends(err) {
			break
		}
	}
	return out
}

// reasonCodes of the reasons that validations may give.
var reasonCodes = map[metav1.StatusReason]int32{
	metav1.StatusReasonForbidden: http.StatusForbidden, metav1.StatusReasonUnauthorized: http.StatusUnauthorized,
	metav1.StatusReasonRequestEntityTooLarge: http.StatusRequestEntityTooLarge,
}

// status is the refusal as the client gets it, in Kubernetes' words.
func (r *refusal) status(a *attributes) error {
	by := fmt.Sprintf("ValidatingAdmissionPolicy '%s'", r.policy.name)
	if r.binding != nil {
		by += fmt.Sprintf(" with binding '%s'", r.binding.name)
	}
	message := fmt.Sprintf("%s denied request: %s", by, r.message)
	err := forbidden(a, errors.New(message))
	err.ErrStatus.Reason, err.ErrStatus.Code = r.reason, reasonCodes[r.reason]
	if r.reason == "" {
		err.ErrStatus.Reason = metav1.StatusReasonInvalid
	}
	if err.ErrStatus.Code == 0 {
		err.ErrStatus.Code = http.StatusUnprocessableEntity
	}
	err.ErrStatus.Details.Causes = append(err.ErrStatus.Details.Causes, metav1.StatusCause{Message: message})
	return err
}

func forbidden(a *attributes, err error) *apierrors.StatusError {
	name := a.name
	if name == "" {
		name = "Unknown"
		if obj, ok := a.object.(metav1.Object); ok && obj.GetGenerateName() != "" {
			name = obj.GetGenerateName()
		}
	}
	return apierrors.NewForbidden(a.gv.WithResource(a.res.Name).GroupResource(), name, err)
}
