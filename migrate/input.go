// SPDX-License-Identifier: Apache-2.0

package migrate

import (
	"cmp"
	"fmt"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/mayfly-ca/mayfly/config"
	"github.com/mayfly-ca/mayfly/internal/files"
	"github.com/mayfly-ca/mayfly/internal/suggest"
)

// maxFile bounds a file of the source.
const maxFile = 4 << 20

// value is the value of a setting, and its place.
type value struct {
	text string
	at   config.Mistake
}

// wrong records a mistake at a place, on one line.
func (p *plan) wrong(at config.Mistake, format string, args ...any) {
	at.Text = strings.ReplaceAll(fmt.Sprintf(format, args...), "\n", "; ")
	p.mistakes = append(p.mistakes, at)
}

// wrongSetting records a mistake at the place of a setting.
func (p *plan) wrongSetting(name, format string, args ...any) {
	at := p.values[name].at
	if at.File == "" {
		at.File = name
	}
	p.wrong(at, format, args...)
}

// set sets a setting, unless its name or value is unknown.
func (p *plan) set(name, text string, at config.Mistake) {
	s := p.find(name)
	if s.Name == "" {
		var known []string
		for _, s := range p.Settings {
			known = append(known, s.Name)
		}
		p.wrong(at, "Fulcio has no setting %q%s", name, suggest.DidYouMean(name, known))
	} else if f := p.Forms[s.Form]; !f.matches(text) {
		p.wrong(at, "%s: found %q, expected %s", name, text, f.Expected)
	} else if strings.Contains(text, "$(") {
		p.wrong(at, "%s: found a variable, which Kubernetes replaces: write its value", name)
	} else {
		p.values[s.Name] = value{text, at}
	}
}

// Text returns the value of a setting.
func (p *plan) Text(name string) string {
	if v, given := p.values[name]; given {
		return v.text
	}
	return p.find(name).Default
}

func atFlag(name string) config.Mistake { return config.Mistake{File: "--from-flags: --" + name} }

// parseFlags returns the flags of a command line of Fulcio by their names. No mistake shows a value, which may be a
// part of a secret.
func (p *plan) parseFlags(line string) map[string]string {
	given, last := map[string]string{}, "…"
	all, err := words(line)
	if err != nil {
		p.unreadable = config.Mistakes{{File: "--from-flags", Text: err.Error()}}
	}
	for len(all) > 0 && slices.Contains([]string{"fulcio", "fulcio-server", "serve"}, filepath.Base(all[0])) {
		all = all[1:]
	}
	for ; len(all) > 0; all = all[1:] {
		if !strings.HasPrefix(all[0], "-") {
			p.wrong(atFlag(last), "a word follows that is no flag; put a value with spaces in quotes")
			continue
		}
		name, text, has := strings.Cut(strings.TrimLeft(all[0], "-"), "=")
		if name == "c" {
			name = "config"
		}
		s := p.find(name)
		known := s.Name != "" || name == "config"
		switch {
		case has:
		case s.Form == "bool":
			text = "true"
		case len(all) > 1 && (known || !strings.HasPrefix(all[1], "-")):
			text, all = all[1], all[1:]
		case known:
			p.wrong(atFlag(name), "a value is missing")
			continue
		}
		last = name
		name = cmp.Or(s.Name, name)
		if s.Form == "algorithms" && given[name] != "" { // each flag adds to the list
			text = given[name] + "," + text
		}
		given[name] = text
	}
	return given
}

// readConfig reads a configuration file of Fulcio. Its keys are those of flags, in any case.
func (p *plan) readConfig(name string) {
	p.eachKey(name, func(path string, at config.Mistake, item *yaml.Node) bool {
		if item.Kind == yaml.MappingNode {
			return false
		}
		text := item.Value
		for i, member := range item.Content {
			text += strings.Repeat(",", min(i, 1)) + member.Value
		}
		p.set(strings.ToLower(path), text, at)
		return true
	})
}

// readEnvironment reads a file of environment variables, of which the others are ignored. That of a setting has its
// name in upper case, with or without _ in place of - and dots.
func (p *plan) readEnvironment(name string) {
	content, err := files.Read(name, maxFile)
	if err != nil {
		p.unreadable = err
	}
	names := map[string]string{}
	for _, s := range p.Settings {
		upper := strings.ToUpper(s.Name)
		names[upper], names[strings.NewReplacer("-", "_", ".", "_").Replace(upper)] = s.Name, s.Name
	}
	for i, line := range strings.Split(string(content), "\n") {
		at := config.Mistake{File: name, Line: i + 1, Column: 1}
		variable, text, found := strings.Cut(strings.TrimPrefix(strings.TrimSpace(line), "export "), "=")
		if !found && variable != "" && variable[0] != '#' {
			p.wrong(at, "found no NAME=VALUE")
		}
		if n := len(text); n > 1 && text[0] == text[n-1] && strings.IndexByte(`"'`, text[0]) >= 0 {
			text = text[1 : n-1]
		}
		if setting := names[variable]; setting != "" && text != "" { // viper ignores an empty one
			p.set(setting, text, at)
		}
	}
}

// quoted is the part of an error of YAML that is from the file, and so may be a part of a secret.
var quoted = regexp.MustCompile(`'.*'`)

// eachKey calls visit for each key of a YAML file with a value, by its path with dots. Where visit returns false, the
// keys below follow. An alias is a mistake, so that a file has not more keys than it seems.
func (p *plan) eachKey(name string, visit func(path string, at config.Mistake, item *yaml.Node) (done bool)) {
	content, err := files.Read(name, maxFile)
	var document yaml.Node
	if err != nil {
		p.unreadable = err
		return
	} else if err := yaml.Unmarshal(content, &document); err != nil || document.Kind == 0 || document.Content[0].Kind != yaml.MappingNode {
		text := "found no YAML mapping of keys and values; convert another format to YAML"
		if err != nil {
			text += ": " + quoted.ReplaceAllString(err.Error(), "'…'")
		}
		p.unreadable = config.Mistakes{{File: name, Text: text}}
		return
	}
	seen := map[string]bool{}
	var walk func(prefix string, n *yaml.Node)
	walk = func(prefix string, n *yaml.Node) {
		for i := 0; i+1 < len(n.Content); i += 2 {
			key, item := n.Content[i], n.Content[i+1]
			path, at := prefix+key.Value, config.Mistake{File: name, Line: key.Line, Column: key.Column}
			switch {
			case seen[path] || item.Kind == yaml.AliasNode:
				p.wrong(at, "the key %s is repeated, or has an alias in place of a value", path)
			case item.ShortTag() == "!!null" || visit(path, at, item):
			case item.Kind == yaml.MappingNode:
				walk(path+".", item)
			}
			seen[path] = true
		}
	}
	walk("", document.Content[0])
}
