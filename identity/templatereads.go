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

// set is a set of claims' names.
type set map[string]bool

func (s set) sorted() []string { return slices.Sorted(maps.Keys(s)) }

// reads holds the claims that a template reads, found by walking its parse tree. It includes the
// branches that a certain token would not take.
type reads struct {
	// names are all claims that the source names. Those of fields are read by .name, which stops the
	// template if missing; the others by index . "name", which is empty if missing.
	names, fields set
	// shown are the claims that are read outside of conditions. needed are those of shown that no
	// condition around them mentions, so that an empty claim would be missing in the result.
	shown, needed set
	// unnamed states that claims are also read without their names in the source: under a computed
	// name, or all together.
	unnamed bool
	// controls states that the template's own text holds a control character, such as the
	// newline at the end of a YAML block. Its result cannot enter a certificate.
	controls bool
	// nested is a field of a claim, as in .run.id, which a text cannot have; "" for none.
	nested string
}

// readsOf walks t and every template that it calls.
func readsOf(t *template.Template) (reads, error) {
	w := &walker{reads: reads{names: set{}, fields: set{}, shown: set{}, needed: set{}}, templates: t, walked: map[call]bool{}}
	w.call(t.Name(), true)
	return w.reads, w.err
}

type walker struct {
	reads
	templates *template.Template
	walked    map[call]bool
	err       error
}

// call is a template, and whether its argument is the claims.
type call struct {
	name   string
	claims bool
}

// scope is the context of a node: whether dot is the claims, the claims that the conditions around
// it mention, and whether it is itself a condition.
type scope struct {
	dot       bool
	mentioned []string
	condition bool
}

func (w *walker) call(name string, claims bool) {
	if w.walked[call{name, claims}] {
		return
	}
	w.walked[call{name, claims}] = true
	if t := w.templates.Lookup(name); t != nil && t.Tree != nil {
		w.list(t.Root, scope{dot: claims})
	} else {
		w.err = fmt.Errorf("the template calls the template %s, which it does not define", quote(name))
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
			_, claims := w.value(n.Pipe, s)
			w.unnamed = w.unnamed || claims // prints them all, or sets a variable to them
		case *parse.IfNode:
			w.branch(&n.BranchNode, s)
		case *parse.WithNode:
			w.branch(&n.BranchNode, s)
		case *parse.RangeNode:
			w.branch(&n.BranchNode, s)
		case *parse.TemplateNode:
			claims := false
			if n.Pipe != nil {
				_, claims = w.value(n.Pipe, s)
			}
			w.call(n.Name, claims)
		case *parse.CommentNode, *parse.BreakNode, *parse.ContinueNode:
		default:
			w.unnamed = true // a node that this walk does not know may read anything
		}
	}
}

func (w *walker) branch(n *parse.BranchNode, s scope) {
	condition := s
	condition.condition = true
	mentioned, claims := w.value(n.Pipe, condition)
	s.mentioned = append(slices.Clip(s.mentioned), mentioned...)
	inner := s
	if n.NodeType != parse.NodeIf || len(n.Pipe.Decl) > 0 {
		w.value(n.Pipe, s) // dot or a variable is the value or a part of it, and may be printed
	}
	if n.NodeType != parse.NodeIf {
		inner.dot = claims && n.NodeType == parse.NodeWith
	}
	w.unnamed = w.unnamed || claims && (n.NodeType == parse.NodeRange || len(n.Pipe.Decl) > 0)
	w.list(n.List, inner)
	w.list(n.ElseList, s)
}

// value walks an expression. It returns the claims that it names, and whether its value is all
// claims. It takes every field for one of the claims, because no other value has fields.
func (w *walker) value(n parse.Node, s scope) (names []string, claims bool) {
	switch n := n.(type) {
	case *parse.PipeNode:
		if len(n.Cmds) == 1 && len(n.Cmds[0].Args) == 1 {
			return w.value(n.Cmds[0].Args[0], s)
		}
		for _, command := range n.Cmds {
			names = append(names, w.function(command.Args, s)...)
		}
		return names, false
	case *parse.DotNode:
		return nil, s.dot
	case *parse.FieldNode:
		return w.field(n.Ident, s), false
	case *parse.VariableNode:
		if len(n.Ident) > 1 {
			return w.field(n.Ident[1:], s), false
		}
		return nil, n.Ident[0] == "$" // the claims in any other variable are unnamed already
	case *parse.ChainNode:
		names, _ = w.value(n.Node, s)
		return append(names, w.field(n.Field, s)...), false
	}
	return nil, false
}

// function walks a call of a function.
func (w *walker) function(args []parse.Node, s scope) (names []string) {
	if function, ok := args[0].(*parse.IdentifierNode); ok && function.Ident == "index" && len(args) == 3 {
		key, literal := args[2].(*parse.StringNode)
		if _, claims := w.value(args[1], s); claims && literal {
			return w.read(key.Text, s)
		}
	}
	for _, arg := range args {
		named, claims := w.value(arg, s)
		names = append(names, named...)
		w.unnamed = w.unnamed || claims // the function gets all of them
	}
	return names
}

// field walks a field of the claims.
func (w *walker) field(names []string, s scope) []string {
	w.fields[names[0]] = true
	if len(names) > 1 {
		w.nested = "." + strings.Join(names, ".")
	}
	return w.read(names[0], s)
}

func (w *walker) read(name string, s scope) []string {
	w.names[name] = true
	if !s.condition {
		w.shown[name] = true
		if !slices.Contains(s.mentioned, name) {
			w.needed[name] = true
		}
	}
	return []string{name}
}
