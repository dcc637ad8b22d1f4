// SPDX-License-Identifier: Apache-2.0

package config

import (
	"encoding/json"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/mayfly-ca/mayfly/ctlog/embedded"
	"github.com/mayfly-ca/mayfly/identity"
)

const documentHead = `# Configuration: each key

<!-- Generated from the structs by "make generate". -->

mayfly reads four files: the [server configuration](#the-server-configuration), the [issuer file](#the-issuer-file), the
[CA set](#the-ca-set) and the [plan of a ceremony](#the-plan-of-a-ceremony). ` + "`mayfly config check FILE`" + ` reports
each mistake with its line. Unknown keys are mistakes. Paths are relative to the file that contains them. A duration has
a unit, as in ` + "`10m`" + `; a time has a zone, as in ` + "`2026-11-08T00:00:00Z`" + `. A key without a default is optional
unless its row states that it is required.

An environment variable overrides its key in the server configuration; an empty one has no effect, and its paths are
relative to the working directory.
`

// document writes docs/configuration.md from the structs, their tags and their comments.
type document struct {
	strings.Builder
	comments map[string]string       // of types as package.Type, and of fields as package.Type.Field
	written  map[reflect.Type]string // the section with the keys of a struct
}

func readComments(t *testing.T) map[string]string {
	t.Helper()
	comments := map[string]string{}
	var files []string
	for _, folder := range []string{".", "../oidc", "../identity", "../identity/policy", "../server", "../server/trace", "../internal/ratelimit", "../ctlog/embedded", "../audit", "../ca/ceremony", "../ca/signer"} {
		inFolder, err := filepath.Glob(folder + "/*.go")
		if err != nil {
			t.Fatal(err)
		}
		files = append(files, inFolder...)
	}
	for _, file := range files {
		parsed, err := parser.ParseFile(token.NewFileSet(), file, nil, parser.ParseComments)
		if err != nil {
			t.Fatal(err)
		}
		ast.Inspect(parsed, func(n ast.Node) bool {
			decl, ok := n.(*ast.GenDecl)
			if !ok || decl.Tok != token.TYPE {
				return true
			}
			spec := decl.Specs[0].(*ast.TypeSpec)
			of := parsed.Name.Name + "." + spec.Name.Name
			comments[of] = decl.Doc.Text()
			if s, ok := spec.Type.(*ast.StructType); ok {
				for _, f := range s.Fields.List {
					for _, name := range f.Names {
						comments[of+"."+name.Name] = f.Doc.Text()
					}
				}
			}
			return true
		})
	}
	return comments
}

var subject = regexp.MustCompile("^\\w+ (?:(?:is|are) )?(?:`[^`]*`(?: \\(ours\\))?[.:,]? ?)?")

// sentence returns the first paragraph of a comment without its subject, on one line.
func (d *document) sentence(name string) string {
	paragraph, _, _ := strings.Cut(d.comments[name], "\n\n")
	text := strings.Join(strings.Fields(paragraph), " ")
	text = strings.ReplaceAll(subject.ReplaceAllString(text, ""), "|", "\\|")
	if text == "" {
		return ""
	}
	return strings.ToUpper(text[:1]) + text[1:]
}

// section writes the keys of a struct: those of its own in a table, and a section for each struct
// below. prefix is that of the keys, with environment variables if variables is set.
func (d *document) section(t *testing.T, of reflect.Type, prefix string, variables bool) {
	name := "an entry"
	if prefix != "" {
		name = "`" + strings.TrimSuffix(prefix, ".") + "`"
	}
	d.written[of] = name
	header, others := false, ""
	var below []func()
	for _, f := range fields(of, false) {
		goField := of.FieldByIndex(f.index)
		owner := of
		for _, i := range f.index[:len(f.index)-1] {
			owner = owner.Field(i).Type
		}
		if first := d.written[owner]; first != "" && first != name {
			others = "\nThe other keys are those of " + first + ".\n"
			continue
		}
		d.written[owner] = name
		kind, path, listed := goField.Type, prefix+f.yaml, false
		for kind.Kind() == reflect.Pointer || kind.Kind() == reflect.Slice && kind.Elem().Kind() == reflect.Struct {
			listed = listed || kind.Kind() == reflect.Slice
			kind = kind.Elem()
		}
		if kind.Kind() == reflect.Struct && len(fields(kind, false)) > 0 {
			next := path + "."
			if listed {
				next = path + "[]."
			}
			below = append(below, func() {
				fmt.Fprintf(d, "\n### `%s`\n\n%s\n", strings.TrimSuffix(next, "."), strings.TrimSpace(d.sentence(kind.String())+" "+d.sentence(owner.String()+"."+goField.Name)))
				if first := d.written[kind]; first != "" {
					fmt.Fprintf(d, "\nThe keys are those of %s.\n", first)
					return
				}
				d.section(t, kind, next, variables && !listed && kind != reflect.TypeFor[embedded.Config]())
			})
			continue
		}
		if !header {
			fmt.Fprintf(d, "\n| key | meaning | default | permitted |%s\n|---|---|---|---|%s\n", map[bool]string{true: " variable |"}[variables], map[bool]string{true: "---|"}[variables])
			header = true
		}
		meaning := d.sentence(owner.String() + "." + goField.Name)
		if meaning == "" {
			t.Errorf("%s.%s has no comment", owner.Name(), goField.Name)
		}
		if f.tag.Get("required") != "" {
			meaning += " **Required.**"
		}
		fmt.Fprintf(d, "| `%s` | %s | %s | %s |", path, meaning, byDefault(goField.Type, f.tag), permitted(goField.Type, f.tag))
		if variables {
			variable := code(variable(path))
			if goField.Type.Kind() == reflect.Slice {
				variable = ""
			}
			fmt.Fprintf(d, " %s |", variable)
		}
		d.WriteByte('\n')
	}
	d.WriteString(others)
	for _, write := range below {
		write()
	}
}

func code(text string) string {
	if text == "" {
		return ""
	}
	return "`" + text + "`"
}

// byDefault describes the value without the key.
func byDefault(of reflect.Type, tag reflect.StructTag) string {
	if of.Kind() == reflect.Bool && tag.Get("default") == "" {
		return "`false`"
	}
	return code(tag.Get("default"))
}

// permitted describes the values of a key.
func permitted(of reflect.Type, tag reflect.StructTag) string {
	switch choices := strings.Fields(tag.Get("oneof")); {
	case len(choices) > 0:
		return "`" + strings.Join(choices, "`, `") + "`"
	case tag.Get("max") != "":
		return tag.Get("min") + " to " + tag.Get("max")
	case tag.Get("min") != "":
		return "from " + tag.Get("min") + " on"
	case tag.Get("kind") == "path":
		return "a path"
	case tag.Get("kind") == "address":
		return "host:port"
	case tag.Get("kind") == "hex":
		return "hexadecimal digits"
	}
	switch of {
	case reflect.TypeFor[bool]():
		return "`true`, `false`"
	case reflect.TypeFor[uint64]():
		return "from 1 on"
	case reflect.TypeFor[float64]():
		return "above 0, at most 1"
	case reflect.TypeFor[time.Time]():
		return "a time"
	case reflect.TypeFor[json.RawMessage]():
		return "a mapping"
	case reflect.TypeFor[[]byte]():
		return "text"
	}
	switch of.Kind() {
	case reflect.Slice:
		return "a list"
	case reflect.Map:
		return "a mapping"
	default:
		return "text"
	}
}

// TestConfigurationDocument compares docs/configuration.md with the structs; -update writes it.
func TestConfigurationDocument(t *testing.T) {
	t.Parallel()
	d := &document{comments: readComments(t), written: map[reflect.Type]string{}}
	d.WriteString(documentHead)
	d.WriteString("\n## The server configuration\n\n`mayfly serve --config mayfly.yaml`; `config/mayfly.example.yaml` is an example.\n")
	d.section(t, reflect.TypeFor[Server](), "", true)
	d.WriteString("\n## The issuer file\n\nThe file that `issuers` names, YAML or JSON. In JSON, keys are in CamelCase: `issuer-url` is `IssuerURL`. A top-level key\n`define` may hold YAML anchors. [issuers.md](issuers.md) has an entry for each common provider.\n")
	d.WriteString("\n### Entries of `oidc-issuers` and `meta-issuers`\n\nThe key of an entry is the issuer URL or, under `meta-issuers`, a pattern, in which a `*` matches one run of `[-_A-Za-z0-9]`.\nAn entry of `oidc-issuers` that matches a token takes precedence.\n")
	d.section(t, reflect.TypeFor[Issuer](), "", false)
	d.WriteString("\n### Entries of `ci-issuer-metadata`\n\n" + d.sentence("identity.CIProvider") + "\n")
	d.section(t, reflect.TypeFor[identity.CIProvider](), "", false)
	d.WriteString("\n## The CA set\n\nThe file that `ca.set` names, written by `mayfly ca`. [rotation.md](rotation.md) describes its use, and [signers.md](signers.md) has a block for each signer.\n")
	d.section(t, reflect.TypeFor[CASet](), "", false)
	d.WriteString("\n## The plan of a ceremony\n\nThe file of `mayfly ca ceremony --plan`. Signers are those of the CA set.\n")
	d.section(t, reflect.TypeFor[Ceremony](), "", false)
	const path = "../docs/configuration.md"
	if *update {
		if err := os.WriteFile(path, []byte(d.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	got, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(d.String(), string(got)); diff != "" {
		t.Errorf("docs/configuration.md is not what `make generate` writes (-want +got):\n%s", diff)
	}
}
