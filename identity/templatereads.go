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

// reads holds the claims that a template reads, found by walking its parse tree. It includes the
// branches that a certain token would not take. All lists are sorted.
type reads struct {
	fields  []string // by .name, which stops the template if missing
	indexed []string // by index . "name", which is empty if missing
	// shown are the claims of both that are read outside of conditions. needed are those of shown
	// that no condition around them mentions, so that an empty claim would be missing in the result.
	shown, needed []string
	// unnamed states that claims are also read without their names in the source: under a computed
	// name, or all together.
	unnamed bool
	// controls states that the template's own text holds a control character, such as the
	// newline at the end of a YAML block. Its result cannot enter a certificate.
	controls bool
	// nested is a field of a claim, as in .run.id, which a text cannot have; "" for none.
	nested string
}

// readsOf walks t and every template that it defines and calls.
func readsOf(t *template.Template) (reads, error) {
	w := &walker{templates: t, walked: map[call]bool{}, variables: map[string]string{}, claimVariables: map[string]bool{},
		fields: map[string]bool{}, indexed: map[string]bool{}, shown: map[string]bool{}, needed: map[string]bool{}}
	if err := w.template(t.Name(), true); err != nil {
		return reads{}, err
	}
	w.reads.fields, w.reads.indexed = slices.Sorted(maps.Keys(w.fields)), slices.Sorted(maps.Keys(w.indexed))
	w.reads.shown, w.reads.needed = slices.Sorted(maps.Keys(w.shown)), slices.Sorted(maps.Keys(w.needed))
	return w.reads, nil
}

type walker struct {
	reads
	templates                      *template.Template
	walked                         map[call]bool
	fields, indexed, shown, needed map[string]bool
	variables                      map[string]string // the claim in each variable that was set to one
	claimVariables                 map[string]bool   // variables that hold all claims
}

// call is a template, and whether its argument is the claims.
type call struct {
	name   string
	claims bool
}

// scope is the context of an expression: whether dot and $ are the claims, the claims that the
// conditions around it mention, and whether it is itself a condition.
type scope struct {
	dot, dollar bool
	mentioned   []string
	condition   bool
}

func (w *walker) template(name string, claims bool) error {
	if w.walked[call{name, claims}] {
		return nil
	}
	w.walked[call{name, claims}] = true
	t := w.templates.Lookup(name)
	if t == nil || t.Tree == nil {
		return fmt.Errorf("the template calls the template %s, which it does not define", quote(name))
	}
	return w.list(t.Root, scope{dot: claims, dollar: claims})
}

func (w *walker) list(list *parse.ListNode, s scope) (err error) {
	if list == nil {
		return nil
	}
	for _, n := range list.Nodes {
		switch n := n.(type) {
		case *parse.TextNode:
			w.controls = w.controls || bytes.ContainsFunc(n.Text, unicode.IsControl)
		case *parse.ActionNode:
			if _, claims := w.pipe(n.Pipe, s); claims && len(n.Pipe.Decl) == 0 {
				w.unnamed = true // prints them all
			}
		case *parse.IfNode:
			err = w.branch(&n.BranchNode, s)
		case *parse.WithNode:
			err = w.branch(&n.BranchNode, s)
		case *parse.RangeNode:
			err = w.branch(&n.BranchNode, s)
		case *parse.TemplateNode:
			_, claims := w.pipe(n.Pipe, s)
			err = w.template(n.Name, claims)
		case *parse.CommentNode, *parse.BreakNode, *parse.ContinueNode:
		default:
			w.unnamed = true // a node that this walk does not know may read anything
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func (w *walker) branch(n *parse.BranchNode, s scope) error {
	condition := s
	condition.condition = true
	mentioned, claims := w.pipe(n.Pipe, condition)
	s.mentioned = append(slices.Clip(s.mentioned), mentioned...)
	inner := s
	if n.NodeType != parse.NodeIf {
		w.pipe(n.Pipe, s) // dot is the value or a part of it, and may be printed
		inner.dot = claims && n.NodeType == parse.NodeWith
		w.unnamed = w.unnamed || claims && n.NodeType == parse.NodeRange
	}
	if err := w.list(n.List, inner); err != nil {
		return err
	}
	return w.list(n.ElseList, s)
}

// pipe walks p. It returns the claims that p names, and whether its value is all claims.
func (w *walker) pipe(p *parse.PipeNode, s scope) (names []string, claims bool) {
	if p == nil {
		return nil, false
	}
	if p.IsAssign {
		defer func() { w.unnamed = w.unnamed || claims }() // the variable may have been printed before
	} else if len(p.Decl) == 1 {
		variable := p.Decl[0].Ident[0]
		if c, ok := singleClaim(p); ok && s.dot && w.variables[variable] == "" {
			// The claim counts as read at the use of the variable.
			w.variables[variable] = c.text
			s.condition = true
		}
		defer func() { w.claimVariables[variable] = w.claimVariables[variable] || claims }()
	}
	if len(p.Cmds) == 1 && len(p.Cmds[0].Args) == 1 {
		return w.operand(p.Cmds[0].Args[0], s)
	}
	for _, command := range p.Cmds {
		args := command.Args
		if function, ok := args[0].(*parse.IdentifierNode); ok && function.Ident == "index" && len(args) == 3 {
			if name, ok := text(args[2]); ok {
				if _, ofClaims := w.operand(args[1], s); ofClaims {
					w.indexed[name] = true
					names, args = append(names, w.read(name, s)...), nil
				}
			}
		}
		for _, arg := range args {
			named, all := w.operand(arg, s)
			names = append(names, named...)
			w.unnamed = w.unnamed || all // a function that gets all of them
		}
	}
	return names, false
}

func (w *walker) read(name string, s scope) []string {
	if !s.condition {
		w.shown[name] = true
		if !slices.Contains(s.mentioned, name) {
			w.needed[name] = true
		}
	}
	return []string{name}
}

// operand walks n, and returns as pipe does.
func (w *walker) operand(n parse.Node, s scope) (names []string, claims bool) {
	switch n := n.(type) {
	case *parse.DotNode:
		return nil, s.dot
	case *parse.FieldNode:
		return w.field(n.Ident, s.dot, s), false
	case *parse.VariableNode:
		variable := n.Ident[0]
		ofClaims := variable == "$" && s.dollar || w.claimVariables[variable]
		switch {
		case len(n.Ident) > 1:
			return w.field(n.Ident[1:], ofClaims, s), false
		case w.variables[variable] != "":
			return w.read(w.variables[variable], s), false
		}
		return nil, ofClaims
	case *parse.ChainNode:
		before, claims := w.operand(n.Node, s)
		return append(before, w.field(n.Field, claims, s)...), false
	case *parse.PipeNode:
		return w.pipe(n, s)
	}
	return nil, false
}

// field walks a field of the claims, or of a value without fields.
func (w *walker) field(names []string, ofClaims bool, s scope) []string {
	w.fields[names[0]] = true
	if len(names) > 1 && ofClaims {
		w.nested = "." + strings.Join(names, ".")
	}
	return w.read(names[0], s)
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
