// SPDX-License-Identifier: Apache-2.0

package migrate

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/mayfly-ca/mayfly/config"
)

func TestWords(t *testing.T) {
	t.Parallel()
	for line, want := range map[string][]string{
		"": nil, " \t\n": nil, "a  b": {"a", "b"}, "a \\\n  b": {"a", "b"}, `'a b'"c d"e`: {"a bc de"}, `"a\"b\\c\d"`: {`a"b\c\d`}, `'a\b$"'`: {`a\b$"`}, `a\ b\'`: {`a b'`}, `'' ""`: {"", ""},
		"'a\nb'": {"a\nb"}, "\"a\\\nb\"": {"ab"}, "'a\\\nb'": {"a\\\nb"}, `"a;b|c*"`: {"a;b|c*"}, "a\\\nb": {"ab"},
	} {
		if got, err := words(line); !slices.Equal(got, want) || err != nil {
			t.Errorf("%q: got %q and error %v, want %q", line, got, err, want)
		}
	}
	for _, line := range []string{`a\`, `'a`, `"a`, `"a\"`, `$a`, `"$a"`, "`a`", "\"`a`\"", "a;b", "a|b", "a&", "a>b", "a<b", "(a)", "a*", "a?", "[a]", "~/a", "a #b"} {
		if got, err := words(line); err == nil {
			t.Errorf("%q: got %q, want an error", line, got)
		}
	}
}

// Words in single quotes are read as they are.
func FuzzWords(f *testing.F) {
	f.Add("serve --port=5555 'a b'")
	f.Add(`"a\"b" \c` + "\\\n")
	f.Fuzz(func(t *testing.T, line string) {
		all, err := words(line)
		if err != nil {
			return
		}
		quoted := make([]string, len(all))
		for i, word := range all {
			quoted[i] = "'" + strings.ReplaceAll(word, "'", `'\''`) + "'"
		}
		if again, err := words(strings.Join(quoted, " ")); err != nil || !slices.Equal(all, again) {
			t.Errorf("%q becomes %q (%v)", all, again, err)
		}
	})
}

// No content of a source or of crypto11.conf ends a migration without an error or files; what is written has passed the
// check. No secret is in a mistake.
func FuzzSources(f *testing.F) {
	f.Add("port: 1\nca: kmsca\n", "GRPC_PORT=1\n", `{"Path": "a", "Pin": "1"}`)
	f.Add("server: {args: {port: 1}, podLabels: {a: b}}\nconfig: {contents: {OIDCIssuers: {}}}\n", "CT-LOG-URL=\n", "{}")
	f.Add("a: &a {b: *a}\n", "A", "[")
	f.Fuzz(func(t *testing.T, source, variables, conf string) {
		dir := t.TempDir()
		write := func(name, content string) string {
			name = filepath.Join(dir, name)
			if err := os.WriteFile(name, []byte(content), 0o600); err != nil {
				t.Fatal(err)
			}
			return name
		}
		set := []string{"fileca-key-passwd=hunter2", "pkcs11-config-path=" + write("conf", conf)}
		env := write("env", variables)
		for _, options := range []Options{{ConfigFile: write("a.yaml", source), EnvFile: env}, {HelmValues: write("b.yaml", source)}} {
			options.Set, options.Out, options.Root = set, filepath.Join(dir, "out"), "/"
			err := Run(context.Background(), options)
			_, errStat := os.Stat(filepath.Join(options.Out, "report.md"))
			if (err == nil) != (errStat == nil) || errors.As(err, new(config.Mistakes)) && strings.Contains(err.Error(), "hunter2") && !strings.Contains(source+variables+conf, "hunter2") {
				t.Errorf("error %v, and the report %v", err, errStat)
			}
			_ = os.RemoveAll(options.Out)
		}
	})
}
