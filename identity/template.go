// SPDX-License-Identifier: Apache-2.0

package identity

import (
	"errors"
	"fmt"
	"regexp"
	"strings"
	"text/template"
	"text/template/parse"
)

// claimTemplate is one parsed value of ci-issuer-metadata: text/template over the claims as text,
// or, without "{{", the name of a claim. It is immutable and safe for concurrent use.
type claimTemplate struct {
	reads reads
	// parts is the template as a concatenation, which most templates are; otherwise nil.
	parts []part
	// full is the template if parts is nil.
	full *template.Template
}

// part is one operand of a concatenation.
type part struct {
	kind partKind
	text string // the literal, or the claim's name
}

type partKind uint8

const (
	literal partKind = iota
	field            // {{.claim}}, which must exist
	indexed          // {{index . "claim"}}, which is empty if missing
)

// parseTemplate parses source. Its errors are for the operator.
func parseTemplate(source string) (*claimTemplate, error) {
	if !strings.Contains(source, "{{") {
		names := set{source: true}
		return &claimTemplate{
			reads: reads{names: names, fields: names, shown: names, needed: names},
			parts: []part{{field, source}},
		}, nil
	}
	full, err := template.New("").Option("missingkey=error").Funcs(template.FuncMap{"printf": printf}).Parse(source)
	if err != nil {
		// The errors of text/template begin with the template's name, which is empty, and the line.
		return nil, fmt.Errorf("parsing the template: %s", strings.TrimPrefix(strings.TrimPrefix(err.Error(), "template: :"), "1: "))
	}
	t := &claimTemplate{full: full}
	if t.reads, err = readsOf(full); err != nil {
		return nil, err
	}
	if parts, ok := concatenation(full.Tree); ok {
		t.parts, t.full = parts, nil
	}
	return t, nil
}

// concatenation returns the parts of a template that has only text, {{.claim}} and {{index .
// "claim"}}. These print the claim's text unchanged, so that concatenating them is the same as
// executing the template.
func concatenation(tree *parse.Tree) ([]part, bool) {
	parts := []part{}
	for _, node := range tree.Root.Nodes {
		switch node := node.(type) {
		case *parse.TextNode:
			parts = append(parts, part{literal, string(node.Text)})
		case *parse.ActionNode:
			p, ok := singleClaim(node.Pipe)
			if !ok {
				return nil, false
			}
			parts = append(parts, p)
		default:
			return nil, false
		}
	}
	return parts, true
}

// singleClaim returns the claim that pipe prints, if it prints one.
func singleClaim(pipe *parse.PipeNode) (part, bool) {
	if len(pipe.Cmds) != 1 || len(pipe.Decl) > 0 {
		return part{}, false
	}
	switch args := pipe.Cmds[0].Args; len(args) {
	case 1:
		if claim, ok := args[0].(*parse.FieldNode); ok && len(claim.Ident) == 1 {
			return part{field, claim.Ident[0]}, true
		}
	case 3:
		function, isFunction := args[0].(*parse.IdentifierNode)
		_, ofDot := args[1].(*parse.DotNode)
		key, isLiteral := args[2].(*parse.StringNode)
		if isFunction && function.Ident == "index" && ofDot && isLiteral {
			return part{indexed, key.Text}, true
		}
	}
	return part{}, false
}

// errTooLong stops a template with a result that could not enter a certificate.
var errTooLong = fmt.Errorf("the template's result is longer than %d bytes", maxText)

// render returns the template's result, neither trimmed nor escaped, or the claims that the template
// requires and values lacks.
func (t *claimTemplate) render(values map[string]string) (text string, absent []string, err error) {
	if t.full != nil {
		return t.execute(values)
	}
	texts := make([]string, 0, 16)
	length := 0
	for _, p := range t.parts {
		text := p.text
		if p.kind != literal {
			var ok bool
			if text, ok = values[p.text]; !ok && p.kind == field {
				absent = append(absent, p.text)
			}
		}
		if length += len(text); length > maxText {
			return "", nil, errTooLong
		}
		texts = append(texts, text)
	}
	return strings.Join(texts, ""), absent, nil
}

func (t *claimTemplate) execute(values map[string]string) (text string, absent []string, err error) {
	var b limitedBuilder
	if err = t.full.Execute(&b, values); err == nil {
		return b.String(), nil, nil
	}
	for name := range t.reads.fields {
		if _, ok := values[name]; !ok && !errors.Is(err, errTooLong) {
			absent = append(absent, name)
		}
	}
	if absent != nil {
		return "", absent, nil
	}
	return "", nil, fmt.Errorf("executing the template: %w", err)
}

// wideVerb matches what makes printf's result longer than its operands: a width or a precision of
// three digits or from an operand, and an operand that is named, and can so be printed many times.
var wideVerb = regexp.MustCompile(`%[^a-zA-Z%]*([*\[]|[0-9]{3})`)

// printf is the built-in of templates with a limit. The built-in formats in memory before any check
// of the size, and its format may be a claim.
func printf(format string, args ...any) (string, error) {
	if len(format) > maxText || wideVerb.MatchString(format) {
		return "", errTooLong
	}
	return fmt.Sprintf(format, args...), nil
}

// limitedBuilder is a strings.Builder that accepts at most maxText bytes.
type limitedBuilder struct{ strings.Builder }

func (b *limitedBuilder) Write(p []byte) (int, error) {
	if b.Len()+len(p) > maxText {
		return 0, errTooLong
	}
	return b.Builder.Write(p)
}
