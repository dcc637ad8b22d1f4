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

// reads holds the reads of claims by a template, found by walking its parse tree. It includes
// branches that a certain token would not take: every name in the template counts.
type reads struct {
	fields  []string // by .name, which stops the template if missing; sorted
	indexed []string // by index . "name", which is empty if missing; sorted
	// needed are the claims of both that are read outside of a condition and of branches in which a
	// condition ensures that they are not empty; sorted.
	needed []string
	// shown are the claims that are read outside of a condition. compared are those of which a
	// condition reads more than whether they are empty; both sorted.
	shown, compared []string
	// unnamed states that claims are also read without their names in the source: under a computed
	// name, or all together.
	unnamed bool
	// controls states that the template's own text holds a control character, such as the
	// newline at the end of a YAML block. Its result cannot enter a certificate.
	controls bool
	// nested is a field of a claim, as in .run.id, which a text cannot have; "" for none.
	nested string
	// forms are the concatenations that result from the template's branches; nil if there are more
	// than maxForms. texts are the texts in the template's expressions.
	forms [][]part
	texts []string
}

// readsOf walks t and every template that it defines and calls.
func readsOf(t *template.Template) (reads, error) {
	w := &walker{templates: t, fields: map[string]bool{}, indexed: map[string]bool{}, claimVars: map[string]bool{}, set: map[string]map[*parse.PipeNode]bool{}}
	// A variable in a loop may be read before the node that sets it. Repeat the walk until it finds
	// no new variable that holds the claims or is set a second time.
	var forms [][]part
	for known := -1; known != w.known(); {
		known = w.known()
		w.walked, w.texts, w.fieldOf = map[call][][]part{}, nil, map[string]string{}
		w.needed, w.shown, w.compared = map[string]bool{}, map[string]bool{}, map[string]bool{}
		forms = w.template(t.Name(), value{claims: true})
	}
	if w.undefined != "" {
		return reads{}, fmt.Errorf("the template calls the template %s, which it does not define", quote(w.undefined))
	}
	return reads{
		fields:   slices.Sorted(maps.Keys(w.fields)),
		indexed:  slices.Sorted(maps.Keys(w.indexed)),
		needed:   slices.Sorted(maps.Keys(w.needed)),
		shown:    slices.Sorted(maps.Keys(w.shown)),
		compared: slices.Sorted(maps.Keys(w.compared)),
		unnamed:  w.unnamed,
		controls: w.controls,
		nested:   w.nested,
		forms:    forms,
		texts:    sorted(w.texts),
	}, nil
}

// value is the known part of an expression's value: that it may be the claims as a whole, like dot
// at the top, or that it is the text of one claim.
type value struct {
	claims bool
	field  string
}

type walker struct {
	templates       *template.Template
	fields, indexed map[string]bool
	needed          map[string]bool
	shown, compared map[string]bool
	unnamed         bool
	controls        bool
	undefined       string
	nested          string
	texts           []string
	claimVars       map[string]bool                     // variables that hold the claims somewhere
	set             map[string]map[*parse.PipeNode]bool // where each variable is set; nil for a loop
	fieldOf         map[string]string                   // the claim in each variable that is set once
	walked          map[call][][]part                   // with the forms of each template
}

// known counts the findings that change the results of later walks.
func (w *walker) known() int {
	n := len(w.claimVars)
	for _, places := range w.set {
		n += len(places)
	}
	return n
}

// call is a template with its argument.
type call struct {
	name  string
	given value
}

// scope is the context of an expression: the values of dot and $, the claims that cannot be empty
// there, whether it is a condition, and whether that condition reads more of a claim than whether
// it is empty.
type scope struct {
	dot, dollar value
	sure        []string
	condition   bool
	compares    bool
}

func (s scope) with(sure []string) scope {
	s.sure = append(slices.Clip(s.sure), sure...)
	return s
}

func (s scope) comparing() scope {
	s.compares = true
	return s
}

func (w *walker) template(name string, given value) [][]part {
	c := call{name, given}
	if forms, ok := w.walked[c]; ok {
		return forms
	}
	w.walked[c] = nil // the result of a template that calls itself is unknown
	t := w.templates.Lookup(name)
	if t == nil || t.Tree == nil {
		w.undefined = name
		return nil
	}
	w.walked[c] = w.list(t.Tree.Root, scope{dot: given, dollar: given})
	return w.walked[c]
}

func (w *walker) list(list *parse.ListNode, s scope) [][]part {
	forms := [][]part{nil}
	if list == nil {
		return forms
	}
	for _, n := range list.Nodes {
		switch n := n.(type) {
		case *parse.TextNode:
			w.controls = w.controls || bytes.ContainsFunc(n.Text, unicode.IsControl)
			forms = followed(forms, [][]part{{{literal, string(n.Text)}}})
		case *parse.ActionNode:
			forms = followed(forms, w.action(n, s))
		case *parse.IfNode:
			yes, no := w.condition(n.Pipe, s)
			forms = followed(forms, either(w.list(n.List, s.with(yes)), w.list(n.ElseList, s.with(no))))
		case *parse.WithNode:
			yes, no := w.condition(n.Pipe, s)
			inner := s.with(yes)
			inner.dot = w.pipe(n.Pipe, inner) // printed values are read there, and not in a condition
			forms = followed(forms, either(w.list(n.List, inner), w.list(n.ElseList, s.with(no))))
		case *parse.RangeNode:
			if w.pipe(n.Pipe, s).claims {
				w.unnamed = true
			}
			for _, v := range n.Pipe.Decl {
				w.sets(v, nil) // to a part of the pipeline's value
			}
			inner := s
			inner.dot = value{}
			w.list(n.List, inner)
			w.list(n.ElseList, s)
			forms = followed(forms, [][]part{{{kind: computed}}})
		case *parse.TemplateNode:
			forms = followed(forms, w.template(n.Name, w.pipe(n.Pipe, s)))
		case *parse.CommentNode, *parse.BreakNode, *parse.ContinueNode:
		default:
			w.unnamed = true // a node that this walk does not know may read anything
		}
	}
	return forms
}

// action walks n and returns what it prints.
func (w *walker) action(n *parse.ActionNode, s scope) [][]part {
	v := w.pipe(n.Pipe, s)
	if len(n.Pipe.Decl) > 0 {
		return [][]part{nil}
	}
	w.unnamed = w.unnamed || v.claims // prints them all
	if t, ok := text(n.Pipe); ok {
		return [][]part{{{literal, t}}}
	}
	if v.field != "" {
		return [][]part{{{field, v.field}}}
	}
	return [][]part{{{kind: computed}}}
}

// sets notes that p sets the variable v.
func (w *walker) sets(v *parse.VariableNode, p *parse.PipeNode) {
	if w.set[v.Ident[0]] == nil {
		w.set[v.Ident[0]] = map[*parse.PipeNode]bool{}
	}
	w.set[v.Ident[0]][p] = true
}

// pipe walks p and returns its value.
func (w *walker) pipe(p *parse.PipeNode, s scope) value {
	if p == nil {
		return value{}
	}
	for _, v := range p.Decl {
		w.sets(v, p)
	}
	if len(p.Decl) == 1 && len(w.set[p.Decl[0].Ident[0]]) == 1 {
		// A claim counts as read at the use of the variable.
		if v := w.commands(p, scope{s.dot, s.dollar, s.sure, true, s.compares}); v.field != "" {
			w.fieldOf[p.Decl[0].Ident[0]] = v.field
			return v
		}
	}
	// The values from which a variable is computed may be printed anywhere.
	v := w.commands(p, scope{s.dot, s.dollar, s.sure, s.condition && len(p.Decl) == 0, s.compares})
	if v.claims {
		for _, declared := range p.Decl {
			w.claimVars[declared.Ident[0]] = true
		}
	}
	return v
}

func (w *walker) commands(p *parse.PipeNode, s scope) value {
	if len(p.Cmds) == 1 && len(p.Cmds[0].Args) == 1 {
		return w.operand(p.Cmds[0].Args[0], s)
	}
	var v value
	var piped parse.Node
	for _, cmd := range p.Cmds {
		v = w.command(cmd.Args, piped, s)
		piped = nil
		if len(cmd.Args) == 1 {
			piped = cmd.Args[0]
		}
	}
	return v
}

// command walks one command of a pipeline; piped is the operand that the previous command passes
// on, if it is a single operand.
func (w *walker) command(args []parse.Node, piped parse.Node, s scope) (v value) {
	if function, ok := args[0].(*parse.IdentifierNode); ok && function.Ident == "index" && len(args) > 1 && w.operand(args[1], s).claims {
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
			w.read(name, s)
		} else {
			w.unnamed = true
		}
		if len(keys) == 1 {
			v.field = name
		}
		args = args[2:]
	}
	for _, arg := range args {
		if w.operand(arg, s).claims {
			w.unnamed = true // a function that gets all of them
		}
	}
	return v
}

func (w *walker) read(name string, s scope) {
	if s.compares {
		w.compared[name] = true
	}
	if s.condition {
		return
	}
	w.shown[name] = true
	if !slices.Contains(s.sure, name) {
		w.needed[name] = true
	}
}

// operand walks n and returns its value.
func (w *walker) operand(n parse.Node, s scope) value {
	switch n := n.(type) {
	case *parse.DotNode:
		return w.again(s.dot, s)
	case *parse.FieldNode:
		return w.field(n.Ident, s.dot.claims, s)
	case *parse.VariableNode:
		switch {
		case len(n.Ident) > 1:
			return w.field(n.Ident[1:], n.Ident[0] == "$" && s.dollar.claims || w.claimVars[n.Ident[0]], s)
		case n.Ident[0] == "$":
			return w.again(s.dollar, s)
		case len(w.set[n.Ident[0]]) == 1 && w.fieldOf[n.Ident[0]] != "":
			return w.again(value{field: w.fieldOf[n.Ident[0]]}, s)
		}
		return value{claims: w.claimVars[n.Ident[0]]}
	case *parse.ChainNode:
		return w.field(n.Field, w.operand(n.Node, s).claims, s)
	case *parse.StringNode:
		w.texts = append(w.texts, n.Text)
	case *parse.PipeNode:
		return w.pipe(n, s)
	}
	return value{}
}

// again records a second read of v, and returns v.
func (w *walker) again(v value, s scope) value {
	if v.field != "" {
		w.read(v.field, s)
	}
	return v
}

// field walks a field of the claims, or of a value without fields.
func (w *walker) field(names []string, ofClaims bool, s scope) value {
	w.fields[names[0]] = true
	w.read(names[0], s)
	if len(names) > 1 && ofClaims {
		w.nested = "." + strings.Join(names, ".")
	}
	if len(names) > 1 || !ofClaims {
		return value{}
	}
	return value{field: names[0]}
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
