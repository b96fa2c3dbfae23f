package resource

import (
	"context"
	"errors"
	"fmt"
	"math"

	"github.com/google/cel-go/common/types"
	"github.com/google/cel-go/common/types/ref"
	"github.com/google/cel-go/interpreter"
	celconfig "k8s.io/apiserver/pkg/apis/cel"
	"k8s.io/apiserver/pkg/cel/lazy"
)

// What expressions of one request may cost together: its match conditions, and the rest of a policy.
const (
	CELBudget       = celconfig.RuntimeCELCostBudgetMatchConditions
	CELPolicyBudget = celconfig.RuntimeCELCostBudget
)

// CELMaxMessage is the longest message that a message expression may give.
const CELMaxMessage = celconfig.MaxEvaluatedMessageExpressionSizeBytes

// ErrCELBudget ends the evaluation of all further expressions.
var ErrCELBudget = errors.New("validation failed due to running out of cost budget, no further validation rules will be run")

// ErrCELCost ends it, too: what an expression cost is not known.
var ErrCELCost = errors.New("no further expression will be run")

// CELInput are the values of variables by name. Objects are of JSON's types.
type CELInput map[string]any

// CELEvaluation evaluates the expressions that share a budget, and the values of a policy's variables. It is for one
// goroutine.
type CELEvaluation struct {
	in     CELInput
	budget int64
	// variables are those of the policy; nil for none.
	variables *lazy.MapValue
	// spent is what variables cost that the running expression was the first to use.
	spent int64
}

// NewCELEvaluation begins one; computed may be nil. The input is shared and not changed.
func NewCELEvaluation(ctx context.Context, in CELInput, computed *CELComputed, budget int64) *CELEvaluation {
	e := &CELEvaluation{in: in, budget: budget}
	if computed == nil || len(computed.programs) == 0 {
		return e
	}
	e.variables = lazy.NewMapValue(computed.typ)
	for name, v := range computed.programs {
		e.variables.Append(name, func(*lazy.MapValue) ref.Val { return e.compute(ctx, name, v) })
	}
	return e
}

// Budget is what is left of it.
func (e *CELEvaluation) Budget() int64 { return e.budget }

// ResolveName implements the activation of an evaluation; a variable that was declared and is not there is null.
func (e *CELEvaluation) ResolveName(name string) (any, bool) {
	if name == celVariables {
		return e.variables, e.variables != nil
	}
	v, ok := e.in[name]
	return v, ok
}

// Parent implements the activation of an evaluation.
func (e *CELEvaluation) Parent() interpreter.Activation { return nil }

// Eval evaluates an expression and takes what it cost from the budget. After ErrCELBudget and ErrCELCost no other is to be
// evaluated.
func (e *CELEvaluation) Eval(ctx context.Context, p *CELProgram) (ref.Val, error) {
	e.spent = 0
	val, details, err := p.program.ContextEval(ctx, e)
	if details == nil || details.ActualCost() == nil {
		return nil, fmt.Errorf("runtime cost could not be calculated for expression: %v, %w", p.expression, ErrCELCost)
	}
	if !e.pay(e.spent) || !e.pay(toInt64(*details.ActualCost())) {
		return nil, ErrCELBudget
	}
	if err != nil {
		return nil, fmt.Errorf("expression '%v' resulted in error: %w", p.expression, err)
	}
	return val, nil
}

func (e *CELEvaluation) pay(cost int64) bool {
	if cost > e.budget {
		return false
	}
	e.budget -= cost
	return true
}

func toInt64(n uint64) int64 { return int64(min(n, math.MaxInt64)) }

// compute evaluates a variable at its first use.
func (e *CELEvaluation) compute(ctx context.Context, name string, v celVariable) ref.Val {
	if v.err != nil {
		return types.NewErr("composited variable %q fails to compile: %v", name, v.err)
	}
	val, details, err := v.program.program.ContextEval(ctx, e)
	if details == nil {
		return types.NewErr("unable to get evaluation details of variable %q", name)
	}
	cost := details.ActualCost()
	if cost == nil {
		return types.NewErr("unable to calculate cost of variable %q", name)
	}
	if e.spent += toInt64(*cost); e.spent < 0 {
		e.spent = math.MaxInt64
	}
	if err != nil {
		return types.NewErr("composited variable %q fails to evaluate: %v", name, err)
	}
	return val
}
