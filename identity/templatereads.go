// SPDX-License-Identifier: Apache-2.0

package identity

import (
	"bytes"
	"fmt"
	"maps"
	"slices"
	"strings"
	"text/template"
	"text/template/parse"
	"unicode"
)

// reads is what a template reads of the claims, found by walking its parse tree. Branches
// that a certain token would not take count as well: what a template names, it names.
type reads struct {
	fields  []string // by .name, which stops the template if missing; sorted
	indexed []string // by index . "name", which is empty if missing; sorted
	// unnamed tells that claims are also read without naming them in the source: under a
	// name that is computed, or all together.
	unnamed bool
	// controls tells that the template's own text holds a control character, such as the
	// newline at the end of a YAML block, so that its result cannot enter a certificate.
	controls bool
	// nested is a field of a claim, as in .run.id, which a text does not have; "" for none.
	nested string
}

// readsOf walks t and every template that it defines and calls.
func readsOf(t *template.Template) (reads, error) {
	w := &walker{templates: t, fields: map[string]bool{}, indexed: map[string]bool{}, claimVars: map[string]bool{}}
	// A variable in a loop may be read before the node that sets it: walk until no new one
	// turns out to hold the claims.
	for known := -1; known != len(w.claimVars); {
		known = len(w.claimVars)
		w.walked = map[call]bool{}
		w.template(t.Name(), true)
	}
	if w.undefined != "" {
		return reads{}, fmt.Errorf("the template calls the template %s, which it does not define", quote(w.undefined))
	}
	return reads{
		fields:   slices.Sorted(maps.Keys(w.fields)),
		indexed:  slices.Sorted(maps.Keys(w.indexed)),
		unnamed:  w.unnamed,
		controls: w.controls,
		nested:   w.nested,
	}, nil
}

// walker knows of each expression one thing: whether its value may be the claims as a
// whole, as dot is at the top. Where it is not, it is text.
type walker struct {
	templates       *template.Template
	fields, indexed map[string]bool
	unnamed         bool
	controls        bool
	undefined       string
	nested          string
	claimVars       map[string]bool // variables that hold the claims somewhere
	walked          map[call]bool
}

// call is a template with what it is given: the claims, or something else.
type call struct {
	name   string
	claims bool
}

// scope tells whether dot and $ are the claims.
type scope struct{ dot, dollar bool }

func (w *walker) template(name string, claims bool) {
	if c := (call{name, claims}); !w.walked[c] {
		w.walked[c] = true
		t := w.templates.Lookup(name)
		if t == nil || t.Tree == nil {
			w.undefined = name
			return
		}
		w.list(t.Tree.Root, scope{claims, claims})
	}
}

func (w *walker) list(list *parse.ListNode, s scope) {
	if list == nil {
		return
	}
	for _, n := range list.Nodes {
		switch n := n.(type) {
		case *parse.TextNode:
			w.controls = w.controls || bytes.ContainsFunc(n.Text, unicode.IsControl)
		case *parse.ActionNode:
			if w.pipe(n.Pipe, s) && len(n.Pipe.Decl) == 0 {
				w.unnamed = true // prints them all
			}
		case *parse.IfNode:
			w.pipe(n.Pipe, s)
			w.list(n.List, s)
			w.list(n.ElseList, s)
		case *parse.WithNode:
			claims := w.pipe(n.Pipe, s)
			w.list(n.List, scope{claims, s.dollar})
			w.list(n.ElseList, s)
		case *parse.RangeNode:
			if w.pipe(n.Pipe, s) {
				w.unnamed = true
			}
			w.list(n.List, scope{false, s.dollar})
			w.list(n.ElseList, s)
		case *parse.TemplateNode:
			w.template(n.Name, w.pipe(n.Pipe, s))
		case *parse.CommentNode, *parse.BreakNode, *parse.ContinueNode:
		default:
			w.unnamed = true // a node that this walk does not know may read anything
		}
	}
}

// pipe walks p and tells whether its value may be the claims.
func (w *walker) pipe(p *parse.PipeNode, s scope) (claims bool) {
	if p == nil {
		return false
	}
	if len(p.Cmds) == 1 && len(p.Cmds[0].Args) == 1 {
		claims = w.operand(p.Cmds[0].Args[0], s)
	} else {
		var piped parse.Node
		for _, cmd := range p.Cmds {
			w.command(cmd.Args, piped, s)
			piped = nil
			if len(cmd.Args) == 1 {
				piped = cmd.Args[0]
			}
		}
	}
	if claims {
		for _, v := range p.Decl {
			w.claimVars[v.Ident[0]] = true
		}
	}
	return claims
}

// command walks one command of a pipeline; piped is the operand that the one before hands
// on, if that is a mere operand.
func (w *walker) command(args []parse.Node, piped parse.Node, s scope) {
	if function, ok := args[0].(*parse.IdentifierNode); ok && function.Ident == "index" && len(args) > 1 && w.operand(args[1], s) {
		keys := args[2:]
		if piped != nil {
			keys = append(slices.Clip(keys), piped)
		}
		name, ok := "", false
		if len(keys) > 0 {
			name, ok = text(keys[0])
		}
		if ok {
			w.indexed[name] = true
		} else {
			w.unnamed = true
		}
		args = args[2:]
	}
	for _, arg := range args {
		if w.operand(arg, s) {
			w.unnamed = true // a function that is handed them all
		}
	}
}

// operand walks n and tells whether its value may be the claims.
func (w *walker) operand(n parse.Node, s scope) (claims bool) {
	switch n := n.(type) {
	case *parse.DotNode:
		return s.dot
	case *parse.FieldNode:
		w.fields[n.Ident[0]] = true
		if len(n.Ident) > 1 && s.dot {
			w.nested = "." + strings.Join(n.Ident, ".")
		}
	case *parse.VariableNode:
		if len(n.Ident) > 1 {
			w.fields[n.Ident[1]] = true
			return false
		}
		return n.Ident[0] == "$" && s.dollar || w.claimVars[n.Ident[0]]
	case *parse.ChainNode:
		w.operand(n.Node, s)
		w.fields[n.Field[0]] = true
	case *parse.PipeNode:
		return w.pipe(n, s)
	}
	return false
}

// text returns the text of a string literal, in parentheses or not.
func text(n parse.Node) (string, bool) {
	switch n := n.(type) {
	case *parse.StringNode:
		return n.Text, true
	case *parse.PipeNode:
		if len(n.Decl) == 0 && len(n.Cmds) == 1 && len(n.Cmds[0].Args) == 1 {
			return text(n.Cmds[0].Args[0])
		}
	}
	return "", false
}
