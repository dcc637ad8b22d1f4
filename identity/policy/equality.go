// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"cel.dev/cel-go/common/ast"
	"cel.dev/cel-go/common/operators"
	"cel.dev/cel-go/common/types"
)

// equality is a comparison such as claims.repository_owner == "example". Most rules begin with one, and CEL
// evaluates it before all other operands of &&: if it is false, so is the rule, and CEL need not run.
type equality struct {
	claim, text string // claim is "" for none
}

// leading returns the equality with which an expression begins, if it begins with one.
func leading(e ast.Expr) (first equality) {
	for isCall(e, operators.LogicalAnd) {
		e = e.AsCall().Args()[0]
	}
	if !isCall(e, operators.Equals) {
		return first
	}
	left, right := e.AsCall().Args()[0], e.AsCall().Args()[1]
	if left.Kind() != ast.SelectKind || right.Kind() != ast.LiteralKind {
		return first
	}
	text, isText := right.AsLiteral().(types.String)
	member := left.AsSelect()
	if of := member.Operand(); isText && !member.IsTestOnly() && of.Kind() == ast.IdentKind && of.AsIdent() == "claims" {
		return equality{member.FieldName(), string(text)}
	}
	return first
}

func isCall(e ast.Expr, function string) bool {
	return e.Kind() == ast.CallKind && e.AsCall().FunctionName() == function
}

// isFalse reports whether the claim is another text. CEL decides about a claim that is missing, or is no
// text.
func (e equality) isFalse(claims map[string]any) bool {
	text, ok := claims[e.claim].(string)
	return ok && e.claim != "" && text != e.text
}
