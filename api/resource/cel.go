package resource

import (
	"context"
	"errors"
	"fmt"
	"math"
	"sync"

	"github.com/google/cel-go/cel"
	"github.com/google/cel-go/common/types/ref"
	"github.com/google/cel-go/interpreter"
	"k8s.io/apimachinery/pkg/util/version"
	celconfig "k8s.io/apiserver/pkg/apis/cel"
	apiservercel "k8s.io/apiserver/pkg/cel"
	"k8s.io/apiserver/pkg/cel/environment"
	"k8s.io/apiserver/pkg/cel/library"
)

// The expressions of admission are Kubernetes' CEL: its environment and libraries, with the variables of
// k8s.io/apiserver/pkg/admission/plugin/cel. Nothing is built before the first expression: a compiler's environment is some
// hundred kilobytes.

// CELVariables say which variables expressions have besides object, oldObject, request and namespaceObject.
type CELVariables struct{ Params, Authorizer bool }

// CELBool is the type of conditions.
var CELBool = cel.BoolType

// CELProgram is a compiled expression; it may be used by many goroutines.
type CELProgram struct {
	program    cel.Program
	expression string
}

var celEnvironments = sync.OnceValues(func() (map[CELVariables]*environment.EnvSet, error) {
	out := map[CELVariables]*environment.EnvSet{}
	for _, vars := range []CELVariables{{}, {Params: true}, {Authorizer: true}, {Params: true, Authorizer: true}} {
		options := []cel.EnvOption{
			cel.Variable("object", cel.DynType), cel.Variable("oldObject", cel.DynType),
			cel.Variable("namespaceObject", celNamespace.CelType()), cel.Variable("request", celRequest.CelType()),
		}
		if vars.Params {
			options = append(options, cel.Variable("params", cel.DynType))
		}
		if vars.Authorizer {
			options = append(options, cel.Variable("authorizer", library.AuthorizerType), cel.Variable("authorizer.requestResource", library.ResourceCheckType))
		}
		env, err := environment.MustBaseEnvSet(environment.DefaultCompatibilityVersion()).Extend(environment.VersionedOptions{
			IntroducedVersion: version.MajorMinor(1, 0), EnvOptions: options, DeclTypes: []*apiservercel.DeclType{celNamespace, celRequest},
		}, environment.StrictCostOpt)
		if err != nil {
			return nil, err
		}
		out[vars] = env
	}
	return out, nil
})

// CompileCEL compiles an expression that must give one of the types. Errors are in the words of Kubernetes' validation.
func CompileCEL(expression string, vars CELVariables, types ...*cel.Type) (*CELProgram, error) {
	sets, err := celEnvironments()
	if err != nil {
		return nil, err
	}
	env, err := sets[vars].Env(environment.StoredExpressions)
	if err != nil {
		return nil, err
	}
	return compileCEL(env, expression, types...)
}

func compileCEL(env *cel.Env, expression string, types ...*cel.Type) (*CELProgram, error) {
	ast, issues := env.Compile(expression)
	if issues != nil {
		return nil, errors.New("compilation failed: " + issues.String())
	}
	if !isOneOf(ast.OutputType(), types) {
		if len(types) == 1 {
			return nil, fmt.Errorf("must evaluate to %v but got %v", types[0], ast.OutputType())
		}
		return nil, fmt.Errorf("must evaluate to one of %v but got %v", types, ast.OutputType())
	}
	program, err := env.Program(ast, cel.InterruptCheckFrequency(celconfig.CheckFrequency))
	if err != nil {
		return nil, fmt.Errorf("program instantiation failed: %w", err)
	}
	return &CELProgram{program, expression}, nil
}

func isOneOf(t *cel.Type, types []*cel.Type) bool {
	for _, want := range types {
		if t.IsExactType(want) || cel.AnyType.IsExactType(want) {
			return true
		}
	}
	return false
}

// CELBudget is what the match conditions of one request may cost together.
const CELBudget = celconfig.RuntimeCELCostBudgetMatchConditions

// ErrCELBudget ends the evaluation of all further expressions.
var ErrCELBudget = errors.New("validation failed due to running out of cost budget, no further validation rules will be run")

// CELInput are the values of variables by name. Objects are of JSON's types.
type CELInput map[string]any

// ResolveName implements the activation of an evaluation; a variable that was declared and is not there is null.
func (in CELInput) ResolveName(name string) (any, bool) {
	v, ok := in[name]
	return v, ok
}

// Parent implements the activation of an evaluation.
func (in CELInput) Parent() interpreter.Activation { return nil }

// Eval evaluates the expression and takes what it cost from the budget.
func (p *CELProgram) Eval(ctx context.Context, in CELInput, budget *int64) (ref.Val, error) {
	val, details, err := p.program.ContextEval(ctx, in)
	if details == nil || details.ActualCost() == nil {
		return nil, fmt.Errorf("runtime cost could not be calculated for expression: %v, no further expression will be run", p.expression)
	}
	cost := *details.ActualCost()
	if cost > math.MaxInt64 || int64(cost) > *budget {
		return nil, ErrCELBudget
	}
	*budget -= int64(cost)
	if err != nil {
		return nil, fmt.Errorf("expression '%v' resulted in error: %w", p.expression, err)
	}
	return val, nil
}
