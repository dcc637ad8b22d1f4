// SPDX-License-Identifier: Apache-2.0

package identity

import (
	"slices"
	"text/template/parse"
)

// maxForms limits the forms of a template, which each condition doubles.
const maxForms = 64

// followed returns every form with each of next after it; nil if they are unknown or too many.
func followed(forms, next [][]part) (all [][]part) {
	if len(forms)*len(next) > maxForms {
		return nil
	}
	for _, before := range forms {
		for _, after := range next {
			all = append(all, append(slices.Clip(before), after...))
		}
	}
	return all
}

// either returns the forms of two branches; nil if one is unknown.
func either(a, b [][]part) [][]part {
	if a == nil || b == nil {
		return nil
	}
	return append(slices.Clip(a), b...)
}

// condition walks the condition n and returns the claims that cannot be empty where it is true,
// and where it is false.
func (w *walker) condition(n parse.Node, s scope) (yes, no []string) {
	s.condition = true
	if v := w.operand(n, s); v.field != "" {
		return []string{v.field}, nil
	}
	p, ok := n.(*parse.PipeNode)
	if !ok || p == nil {
		return nil, nil
	}
	last := len(p.Cmds) - 1
	args := p.Cmds[last].Args
	if last > 0 { // the value of the previous commands is the last argument
		args = append(slices.Clip(args), &parse.PipeNode{NodeType: parse.NodePipe, Cmds: p.Cmds[:last]})
	}
	if len(args) == 1 {
		return w.condition(args[0], s)
	}
	function, ok := args[0].(*parse.IdentifierNode)
	if !ok {
		return nil, nil
	}
	switch args = args[1:]; function.Ident {
	case "not":
		if len(args) == 1 {
			no, yes = w.condition(args[0], s)
		}
	case "and":
		yes, no = w.all(args, s, false)
	case "or":
		no, yes = w.all(args, s, true)
	case "eq":
		yes, no = w.equal(args, s)
	case "ne":
		no, yes = w.equal(args, s)
	case "len", "print", "html", "js", "urlquery": // of a text; empty or 0 if the text is empty
		if len(args) == 1 {
			yes, _ = w.condition(args[0], s)
		}
	default:
		w.operand(n, s.comparing())
	}
	return yes, no
}

// all is condition for a list. every applies if all arguments are true, one if at least one is not;
// with negated, if all arguments are false, or at least one is not.
func (w *walker) all(args []parse.Node, s scope, negated bool) (every, one []string) {
	for i, arg := range args {
		yes, no := w.condition(arg, s)
		if negated {
			yes, no = no, yes
		}
		every = append(every, yes...)
		if i == 0 {
			one = no
		}
		one = slices.DeleteFunc(slices.Clone(one), func(name string) bool { return !slices.Contains(no, name) })
	}
	return every, one
}

// equal is condition for eq: its first argument equals one of the others.
func (w *walker) equal(args []parse.Node, s scope) (yes, no []string) {
	if len(args) < 2 {
		return nil, nil
	}
	first, isText := text(args[0])
	name := w.operand(args[0], s).field
	for _, arg := range args {
		if w.operand(arg, s).field == "" { // a function's result from a claim
			w.operand(arg, s.comparing())
		}
	}
	empty, filled := false, name != ""
	for _, arg := range args[1:] {
		other, ok := text(arg)
		field := w.operand(arg, s).field
		switch {
		case ok && other == "":
			empty = true
		case field != "" && isText && first == "":
			no = append(no, field)
		default:
			w.compared[field], w.compared[name] = true, true
			if isText && field != "" && len(args) == 2 {
				yes = append(yes, field)
			}
		}
		filled = filled && ok && other != ""
	}
	if filled {
		yes = append(yes, name)
	}
	if name != "" && empty {
		no = append(no, name)
	}
	return yes, no
}
