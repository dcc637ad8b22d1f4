// SPDX-License-Identifier: Apache-2.0

// Package migrate writes the files of a mayfly server from the settings of a Fulcio: its flags, configuration file
// and environment, or the values of its Helm chart. Only cmd may import it.
//
// Every mistake is reported at once, and then nothing is written. What is written passes `mayfly config check`.
package migrate

import (
	"embed"
	"regexp"
	"slices"

	"go.yaml.in/yaml/v3"
)

// tables are the content of settings.yaml.
type tables struct {
	Forms         map[string]form
	Settings      []setting
	Algorithms    map[string]string
	Refused       map[string]string // kinds of CA, and what to do
	ChartSettings map[string]string `yaml:"chart_settings"`
	ChartValues   map[string]string `yaml:"chart_values"`
}

// setting is a setting of Fulcio. Becomes is, in Markdown, what it becomes.
type setting struct{ Name, Alias, Form, Default, Becomes string }

// form is the form of values: a regular expression for a whole value, and its description.
type form struct{ Pattern, Expected string }

//go:embed settings.yaml templates
var embedded embed.FS

func readTables() (t tables, err error) {
	content, err := embedded.ReadFile("settings.yaml")
	if err == nil {
		err = yaml.Unmarshal(content, &t)
	}
	return t, err
}

// find returns the setting of a name; that of an unknown one is empty.
func (t tables) find(name string) setting {
	if i := slices.IndexFunc(t.Settings, func(s setting) bool { return s.Name == name || s.Alias == name && name != "" }); i >= 0 {
		return t.Settings[i]
	}
	return setting{}
}

// matches reports whether a value has the form.
func (f form) matches(text string) bool {
	return regexp.MustCompile(`^(?:` + f.Pattern + `)$`).MatchString(text)
}
