// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"cel.dev/cel-go/cel"
	"cel.dev/cel-go/common/ast"
	"cel.dev/cel-go/common/operators"
	"cel.dev/cel-go/common/types"
	"cel.dev/cel-go/common/types/ref"
	"cel.dev/cel-go/interpreter"
	"cel.dev/cel-go/parser"
)

// Limits of an explanation.
const (
	maxParts = 50  // of one rule
	maxShown = 200 // characters of an expression or a value
)

// Explained is a rule with the values of its parts, for one caller.
type Explained struct {
	// Name is the rule's name.
	Name string `json:"name"`
	// Value is true, false, or error.
	Value string `json:"value"`
	// Parts are the operands of the expression's outermost && and ||, in its order.
	Parts []Part `json:"parts"`
}

// Part is an operand.
type Part struct {
	// Expression is the operand as CEL.
	Expression string `json:"expression"`
	// Value is as in Explained.
	Value string `json:"value"`
	// Found are the values that it read, as in `claims.ref is "refs/heads/main"`, or its error. They
	// are claims of the caller, and not escaped.
	Found []string `json:"found,omitempty"`
}

// String returns the part as a sentence.
func (p Part) String() string {
	text := p.Expression + " is " + p.Value
	if p.Value == "error" {
		text = p.Expression + " has no truth value"
	}
	if len(p.Found) > 0 {
		text += ": " + strings.Join(p.Found, ", ")
	}
	return text
}

// Explain evaluates every part of every rule. It compiles the rules again, in a form that records
// values, and so is not for requests.
func (p *Policy) Explain(in Input) (all []Explained) {
	if p == nil {
		return nil
	}
	for _, rule := range p.rules {
		e := Explained{Name: rule.name, Value: "error"}
		if recorded, value, err := record(rule.when, in); err == nil {
			e.Value, e.Parts = valueOf(value), recorded.parts(recorded.root)
		}
		all = append(all, e)
	}
	return all
}

// explanation is what the evaluation of an expression has recorded.
type explanation struct {
	root   ast.Expr
	source *ast.SourceInfo
	state  interpreter.EvalState
}

// record evaluates an expression, of which New has made a rule. An error states that the expression
// cannot be recorded; its own error is its value.
func record(when string, in Input) (x explanation, value ref.Val, err error) {
	env, err := newEnv(cel.EnableMacroCallTracking())
	if err != nil {
		return x, nil, err
	}
	compiled, issues := env.Compile(when)
	if issues.Err() != nil {
		return x, nil, issues.Err()
	}
	program, err := env.Program(compiled, cel.EvalOptions(cel.OptTrackState, cel.OptExhaustiveEval), cel.CostLimit(costLimit))
	if err != nil {
		return x, nil, err
	}
	value, details, _ := program.Eval(in.variables())
	return explanation{compiled.NativeRep().Expr(), compiled.NativeRep().SourceInfo(), details.State()}, value, nil
}

func (x explanation) parts(e ast.Expr) (list []Part) {
	if e.Kind() == ast.CallKind && (e.AsCall().FunctionName() == operators.LogicalAnd || e.AsCall().FunctionName() == operators.LogicalOr) {
		for _, operand := range e.AsCall().Args() {
			list = append(list, x.parts(operand)...)
		}
		return list[:min(len(list), maxParts)]
	}
	value, _ := x.state.Value(e.ID())
	part := Part{Expression: x.text(e), Value: valueOf(value)}
	if err, ok := value.(*types.Err); ok {
		part.Found = []string{shown(err.Error())}
		return []Part{part}
	}
	var read []string
	ast.PreOrderVisit(e, ast.NewExprVisitor(func(inner ast.Expr) {
		value, ok := x.state.Value(inner.ID())
		text := x.text(inner)
		within := func(outer string) bool {
			return outer == text || strings.HasPrefix(outer, text+".") || strings.HasPrefix(outer, text+"[")
		}
		if ok && isVariable(inner, text) && !slices.ContainsFunc(read, within) {
			read = append(read, text)
			part.Found = append(part.Found, text+" is "+literal(value))
		}
	}))
	return []Part{part}
}

// isVariable reports whether e, with the given text, is a variable, or a member of one.
func isVariable(e ast.Expr, text string) bool {
	index := e.Kind() == ast.CallKind && e.AsCall().FunctionName() == operators.Index
	member := index || e.Kind() == ast.SelectKind
	return text == "san" || text == "issuer" || member && (strings.HasPrefix(text, "claims.") || strings.HasPrefix(text, "claims["))
}

func (x explanation) text(e ast.Expr) string {
	text, err := parser.Unparse(e, x.source)
	if err != nil {
		return "a part"
	}
	return shown(oneLine(text))
}

// valueOf returns the value of a condition as one word.
func valueOf(value ref.Val) string {
	if b, ok := value.(types.Bool); ok {
		return strconv.FormatBool(bool(b))
	}
	return "error"
}

// literal returns a value as CEL has it, cut.
func literal(value ref.Val) string {
	if text, ok := value.(types.String); ok {
		return strconv.Quote(shown(string(text)))
	}
	return shown(fmt.Sprint(value))
}

// shown cuts a text.
func shown(text string) string {
	if runes := []rune(text); len(runes) > maxShown {
		return string(runes[:maxShown]) + "…"
	}
	return text
}
