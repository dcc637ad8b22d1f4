// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"cel.dev/cel-go/cel"
	"cel.dev/cel-go/common/ast"
	"cel.dev/cel-go/common/operators"
	"cel.dev/cel-go/common/types"
	"cel.dev/cel-go/parser"

	"github.com/mayfly-ca/mayfly/internal/suggest"
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
	// Parts are the operands of the expression's outermost && and ||, in its order, except those of a
	// part that is true.
	Parts []Part `json:"parts"`
}

// Part is an operand.
type Part struct {
	// Expression is the operand as CEL.
	Expression string `json:"expression"`
	// Value is true, false, or error.
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
	env, err := newEnv(cel.EnableMacroCallTracking())
	if p == nil || err != nil {
		return nil
	}
	for _, rule := range p.rules {
		e := Explained{Name: rule.name}
		compiled, program, err := compile(env, rule.when, cel.OptTrackState, cel.OptExhaustiveEval)
		if err == nil { // New has compiled it too
			_, details, _ := program.Eval(in.variables()) // an error is the value of a part
			e.Parts = partsOf(compiled.NativeRep().Expr(), compiled.NativeRep().SourceInfo(), details, slices.Sorted(maps.Keys(in.Claims)))
		}
		all = append(all, e)
	}
	return all
}

// variable matches the text of a variable, and of a member of one.
var variable = regexp.MustCompile(`^(san|issuer|claims(\.\w+|\[("[^"]*"|\d+)\])+)$`)

// partsOf returns the operands of e with what their evaluation has recorded. Those of a part that is
// true do not matter. claims are the names that a misspelt one may mean.
func partsOf(e ast.Expr, source *ast.SourceInfo, recorded *cel.EvalDetails, claims []string) (list []Part) {
	if value, _ := recorded.State().Value(e.ID()); value != types.True && e.Kind() == ast.CallKind &&
		slices.Contains([]string{operators.LogicalAnd, operators.LogicalOr}, e.AsCall().FunctionName()) {
		for _, operand := range e.AsCall().Args() {
			list = append(list, partsOf(operand, source, recorded, claims)...)
		}
		return list[:min(len(list), maxParts)]
	}
	part := Part{Value: "error"}
	var read []string
	ast.PreOrderVisit(e, ast.NewExprVisitor(func(inner ast.Expr) {
		value, ok := recorded.State().Value(inner.ID())
		text, _ := parser.Unparse(inner, source) // the internals of a macro have none
		text = oneLine(text)
		if inner.ID() == e.ID() {
			part.Expression = shown(text)
			switch value := value.(type) {
			case types.Bool:
				part.Value = strconv.FormatBool(bool(value))
			case *types.Err:
				name, _ := strings.CutPrefix(value.Error(), "no such key: ")
				part.Found = []string{shown(value) + suggest.DidYouMean(name, claims)}
			}
		}
		isMember := func(outer string) bool {
			return outer == text || strings.HasPrefix(outer, text+".") || strings.HasPrefix(outer, text+"[")
		}
		if ok && !types.IsUnknownOrError(value) && variable.MatchString(text) && !slices.ContainsFunc(read, isMember) {
			read = append(read, text)
			part.Found = append(part.Found, shown(text)+" is "+shown(value))
		}
	}))
	return []Part{part}
}

// shown returns a value as CEL has it, cut.
func shown(value any) string {
	text := fmt.Sprint(value)
	if runes := []rune(text); len(runes) > maxShown {
		text = string(runes[:maxShown]) + "…"
	}
	if _, isText := value.(types.String); isText {
		text = strconv.Quote(text)
	}
	return text
}
