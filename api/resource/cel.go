package resource

import (
	"errors"
	"fmt"
	"sync"

	"github.com/google/cel-go/cel"
	"github.com/google/cel-go/common/types"
	"k8s.io/apimachinery/pkg/util/version"
	celconfig "k8s.io/apiserver/pkg/apis/cel"
	apiservercel "k8s.io/apiserver/pkg/cel"
	"k8s.io/apiserver/pkg/cel/common"
	"k8s.io/apiserver/pkg/cel/environment"
	"k8s.io/apiserver/pkg/cel/library"
	"k8s.io/apiserver/pkg/cel/mutation"
)

// The expressions of admission are Kubernetes' CEL: its environment and libraries, with the variables of
// k8s.io/apiserver/pkg/admission/plugin/cel. Nothing is built before the first expression: a compiler's environment is some
// hundred kilobytes.

// CELVariables say what expressions know besides object, oldObject, request and namespaceObject.
type CELVariables struct {
	Params, Authorizer bool
	// Patches: the types Object and JSONPatch, of which mutations are made.
	Patches bool
}

// Types of results: of conditions, messages and the two kinds of patches; CELText or null of audit annotations; anything.
var (
	CELBool      = cel.BoolType
	CELText      = cel.StringType
	CELNull      = cel.NullType
	CELObject    = types.NewObjectType(mutation.ObjectTypeName)
	CELJSONPatch = cel.ListType(types.NewObjectType(mutation.JSONPatchTypeName))
	celAny       = cel.AnyType
)

// CELProgram is a compiled expression; it may be used by many goroutines.
type CELProgram struct {
	program    cel.Program
	expression string
	result     *cel.Type
}

// celEnvironments are made when the first expression needs them.
var celEnvironments struct {
	sync.Mutex
	made map[CELVariables]*environment.EnvSet
}

func celEnvironment(vars CELVariables) (*environment.EnvSet, error) {
	celEnvironments.Lock()
	defer celEnvironments.Unlock()
	if env := celEnvironments.made[vars]; env != nil {
		return env, nil
	}
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
	env, err := extendCEL(celBase(), options, celNamespace, celRequest)
	if err == nil && vars.Patches {
		env, err = extendCEL(env, []cel.EnvOption{common.ResolverEnvOption(&mutation.DynamicTypeResolver{}), environment.UnversionedLib(library.JSONPatch)})
	}
	if err != nil {
		return nil, err
	}
	if celEnvironments.made == nil {
		celEnvironments.made = map[CELVariables]*environment.EnvSet{}
	}
	celEnvironments.made[vars] = env
	return env, nil
}

// celBase are Kubernetes' libraries and limits.
func celBase() *environment.EnvSet {
	return environment.MustBaseEnvSet(environment.DefaultCompatibilityVersion())
}

func extendCEL(env *environment.EnvSet, options []cel.EnvOption, declared ...*apiservercel.DeclType) (*environment.EnvSet, error) {
	return env.Extend(environment.VersionedOptions{
		IntroducedVersion: version.MajorMinor(1, 0), EnvOptions: options, DeclTypes: declared,
	})
}

// CompileCEL compiles an expression that must give one of the types. Errors are in the words of Kubernetes' validation.
func CompileCEL(expression string, vars CELVariables, types ...*cel.Type) (*CELProgram, error) {
	set, err := celEnvironment(vars)
	if err != nil {
		return nil, err
	}
	env, err := set.Env(environment.StoredExpressions)
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
	return &CELProgram{program, expression, ast.OutputType()}, nil
}

func isOneOf(t *cel.Type, types []*cel.Type) bool {
	for _, want := range types {
		if t.IsExactType(want) || cel.AnyType.IsExactType(want) {
			return true
		}
	}
	return false
}
