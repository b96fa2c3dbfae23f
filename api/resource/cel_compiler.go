package resource

import (
	"github.com/google/cel-go/cel"
	"github.com/google/cel-go/common/types/traits"
	apiservercel "k8s.io/apiserver/pkg/cel"
	"k8s.io/apiserver/pkg/cel/environment"
)

const (
	celVariables     = "variables"
	celVariablesType = "kubernetes.variables"
)

// CELCompiler compiles the expressions of one policy: each may use the variables that were compiled before it. An
// environment that knows variables is the policy's own, so it is made only for policies that have some.
type CELCompiler struct {
	params   bool
	computed *CELComputed
	envs     map[CELVariables]*cel.Env
}

// CELComputed are the variables of a policy, as evaluations need them.
type CELComputed struct {
	typ      *apiservercel.DeclType
	programs map[string]celVariable
}

// celVariable has either; what cannot be compiled is an error for those expressions that use it.
type celVariable struct {
	program *CELProgram
	err     error
}

// NewCELCompiler compiles for a policy that may have params, and knows variables or not.
func NewCELCompiler(params, variables bool) *CELCompiler {
	c := &CELCompiler{params: params}
	if variables {
		c.computed = newCELComputed()
		c.envs = map[CELVariables]*cel.Env{}
	}
	return c
}

func newCELComputed() *CELComputed {
	return &CELComputed{apiservercel.NewObjectType(celVariablesType, map[string]*apiservercel.DeclField{}), map[string]celVariable{}}
}

// Variable compiles a variable.
func (c *CELCompiler) Variable(name, expression string) error {
	program, err := c.Compile(expression, CELVariables{Authorizer: true}, celAny)
	var result *cel.Type
	if err == nil {
		result = program.result
	}
	c.computed.declare(name, result)
	c.computed.programs[name] = celVariable{program, err}
	return err
}

// declare says of which type a variable is; nil when nobody knows.
func (v *CELComputed) declare(name string, t *cel.Type) {
	v.typ.Fields[name] = apiservercel.NewDeclField(name, celDeclared(t), true, nil, nil)
}

// Computed are the variables compiled so far; nil for a policy that knows none.
func (c *CELCompiler) Computed() *CELComputed { return c.computed }

// Compile compiles an expression as CompileCEL does; vars need not say whether there are params.
func (c *CELCompiler) Compile(expression string, vars CELVariables, types ...*cel.Type) (*CELProgram, error) {
	vars.Params = c.params
	if c.computed == nil {
		return CompileCEL(expression, vars, types...)
	}
	env, err := c.env(vars)
	if err != nil {
		return nil, err
	}
	return compileCEL(env, expression, types...)
}

func (c *CELCompiler) env(vars CELVariables) (*cel.Env, error) {
	if env := c.envs[vars]; env != nil {
		return env, nil
	}
	base, err := celEnvironment(vars)
	if err != nil {
		return nil, err
	}
	set, err := c.computed.extend(base)
	if err != nil {
		return nil, err
	}
	env, err := set.Env(environment.StoredExpressions)
	if err == nil {
		c.envs[vars] = env
	}
	return env, err
}

// extend makes the variables known to an environment: also those that are declared later.
func (v *CELComputed) extend(set *environment.EnvSet) (*environment.EnvSet, error) {
	return extendCEL(set, []cel.EnvOption{cel.Variable(celVariables, v.typ.CelType())}, v.typ)
}

// celSimple are the types that variables can be declared as.
var celSimple = map[*cel.Type]*apiservercel.DeclType{
	cel.AnyType: apiservercel.AnyType, cel.BoolType: apiservercel.BoolType, cel.BytesType: apiservercel.BytesType,
	cel.DoubleType: apiservercel.DoubleType, cel.DurationType: apiservercel.DurationType, cel.IntType: apiservercel.IntType,
	cel.NullType: apiservercel.NullType, cel.StringType: apiservercel.StringType, cel.TimestampType: apiservercel.TimestampType,
	cel.UintType: apiservercel.UintType,
}

// celDeclared is the declaration of a result's type; what is more than lists and maps of simple types is dynamic.
func celDeclared(t *cel.Type) *apiservercel.DeclType {
	if t == nil {
		return apiservercel.DynType
	}
	if d := celSimple[t]; d != nil {
		return d
	}
	if t.HasTrait(traits.ContainerType) && t.HasTrait(traits.IndexerType) {
		switch of := t.Parameters(); len(of) {
		case 1:
			return apiservercel.NewListType(celDeclared(of[0]), -1)
		case 2:
			return apiservercel.NewMapType(celDeclared(of[0]), celDeclared(of[1]), -1)
		}
	}
	return apiservercel.DynType
}
