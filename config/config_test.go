// SPDX-License-Identifier: Apache-2.0

package config

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/mayfly-ca/mayfly/internal/keypath"
)

const good = `oidc-issuers:
  https://a.example:
    issuer-url: https://a.example
    client-id: sigstore
    type: email
`

// least is the smallest server configuration.
const least = `issuers: issuers.yaml
ca: {file: {chain: chain.pem, key: key.pem}}
ct: {logs: [{url: "https://log.example/2026", public_key: log.pub}]}
`

// lines returns an error's text as lines, nil for nil.
func lines(err error) []string {
	if err == nil {
		return nil
	}
	return strings.Split(err.Error(), "\n")
}

// writeFile writes a file of its own, and returns its path.
func writeFile(t *testing.T, content string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "f")
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// TestIssuerPlaces tests that YAML and JSON give each path its place, and that an entry and a profile
// know their own path.
func TestIssuerPlaces(t *testing.T) {
	t.Parallel()
	files := map[string]string{
		"YAML": `oidc-issuers:
  https://a.example:
    issuer-url: https://a.example
    client-id: sigstore
    jwks-hosts: [keys.a.example]
    profiles:
      - {name: one, client-id: one}
ci-issuer-metadata:
  ci:
    extension-templates: {build-signer-uri: a}
`,
		"JSON": `{"OIDCIssuers": {
  "https://a.example": {
    "IssuerURL": "https://a.example",
    "ClientID": "sigstore",
    "JWKSHosts": ["keys.a.example"],
    "Profiles": [
       {"Name": "one", "ClientID": "one"}]}},
"CIIssuerMetadata": {
  "ci": {
    "ExtensionTemplates": {"BuildSignerURI": "a"}}}}
`,
	}
	for name, want := range map[string][]string{
		"YAML": {"f:3:17: ", "f:2:3: ", "f:5:5: ", "f:5:18: ", "f:5:5: ", "f:7:32: ", "f:10:45: ", "f:8:1: ", "f:1:1: ", "f: "},
		"JSON": {"f:3:18: ", "f:2:3: ", "f:5:5: ", "f:5:19: ", "f:5:5: ", "f:7:36: ", "f:10:46: ", "f:8:1: ", "f:1:1: ", "f: "},
	} {
		issuers, _, err := ParseIssuers("f", []byte(files[name]), false, nil)
		if err != nil {
			t.Fatal(err)
		}
		entry := issuers.Entries[0].All()
		metadata := []string{"ci-issuer-metadata"}
		var errs []error
		for _, path := range [][]string{
			join(entry[0].Path, "issuer-url"), entry[0].Path, join(entry[0].Path, "jwks-hosts"), join(entry[0].Path, "jwks-hosts", "0"),
			join(entry[0].Path, "jwks-hosts", "1"), join(entry[1].Path, "client-id"),
			join(metadata, "ci", "extension-templates", "build-signer-uri"), join(metadata, "missing", "constants"), {"nothing"}, nil,
		} {
			errs = append(errs, keypath.Errorf(path, ""))
		}
		if diff := cmp.Diff(want, lines(issuers.WithPlaces(errors.Join(errs...)))); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
		if p := entry[1]; p.Key != "https://a.example" || p.Profile != "one" || !p.Static || entry[0].Profile != "" {
			t.Errorf("%s: the profile's place is %+v", name, p.IssuerConfig)
		}
		if len(issuers.Digest()) != 16 || issuers.Name() != "f" || issuers.WithPlaces(nil) != nil {
			t.Errorf("digest %q, name %q", issuers.Digest(), issuers.Name())
		}
	}
}

func TestServerPlaces(t *testing.T) {
	t.Parallel()
	server, _, err := ParseServer("m", []byte(least), []string{"MAYFLY_CA_FILE_KEY=k"})
	if err != nil {
		t.Fatal(err)
	}
	got := server.WithPlaces(errors.Join(
		keypath.Errorf([]string{"ca", "file", "chain"}, "expired"),
		keypath.Errorf([]string{"ca", "file", "key"}, "no key"),
		keypath.Errorf([]string{"ct", "logs", "0", "public_key"}, "no key"),
		keypath.Errorf([]string{"listen", "http"}, "in use"),
		errors.New("broken"),
	))
	want := []string{"m:2:20: expired", "MAYFLY_CA_FILE_KEY: no key", "m:3:59: no key", "m:1:1: in use", "m: broken"}
	if diff := cmp.Diff(want, lines(got)); diff != "" {
		t.Errorf("places (-want +got):\n%s", diff)
	}
	if !server.Sets("ca", "file", "key") || server.Sets("listen", "http") {
		t.Error("Sets reports keys that neither the file nor a variable sets, or not those that they set")
	}
	if m := (Mistake{}); !errors.As(got, &m) || m.Line != 2 {
		t.Errorf("errors.As found %+v", m)
	}
}

// TestSettingsAndForm tests that mistakes and warnings of build appear with those of the file itself,
// in the order of the file, without likely consequences of other mistakes.
func TestSettingsAndForm(t *testing.T) {
	t.Parallel()
	file := writeFile(t, good+"  https://b.example:\n    issuer-url: https://b.example\n    client-id: sigstore\n    tpye: email\n    tests: x\n")
	at := func(entry string, keys ...string) []string {
		return append([]string{"oidc-issuers", "https://" + entry + ".example"}, keys...)
	}
	issuers, warnings, err := LoadIssuers(file, false, func(i *Issuers) ([]error, error) {
		if len(i.Entries) != 2 {
			t.Errorf("%d entries", len(i.Entries))
		}
		return []error{keypath.Errorf(at("b", "client-id"), "a warning")}, errors.Join(
			keypath.Errorf(at("b", "type"), "an echo: the key is misspelt"),
			keypath.Errorf(at("b", "tests", "0", "san"), "an echo: the list was not read"),
			keypath.Errorf(at("a", "type"), "a mistake of its own"),
			keypath.Errorf(at("a", "missing"), "a missing key"),
		)
	})
	if issuers != nil {
		t.Error("issuers beside mistakes")
	}
	want := []string{
		file + ":2:3: a missing key",
		file + ":5:11: a mistake of its own",
		file + `:9:5: unknown key "tpye"; did you mean "type"?`,
		file + ":10:12: found text, expected a list: one entry is a list too, written in brackets",
	}
	if diff := cmp.Diff(want, lines(err)); diff != "" {
		t.Errorf("mistakes (-want +got):\n%s", diff)
	}
	if len(warnings) != 1 || !strings.HasPrefix(warnings[0].Error(), file+":8:") {
		t.Errorf("warnings %v", warnings)
	}
}

func TestBounds(t *testing.T) {
	t.Parallel()
	var laughs strings.Builder
	laughs.WriteString(good + "define:\n  - &a0 [x, x, x, x, x, x, x, x, x, x]\n")
	for i := 1; i < 12; i++ {
		fmt.Fprintf(&laughs, "  - &a%d [%s*a%d]\n", i, strings.Repeat(fmt.Sprintf("*a%d, ", i-1), 9), i-1)
	}
	for name, tt := range map[string]struct{ content, want string }{
		"billion laughs":      {laughs.String(), "holds more than 400000 values once its aliases are expanded"},
		"merged laughs":       {strings.Replace(laughs.String(), "[*a", "[<<, *a", 1), "holds more than 400000 values once its aliases are expanded"},
		"many values in JSON": {`{"a":[` + strings.Repeat("1,", 800_000) + "1]}", "holds more than 400000 values"},
		"large file":          {good + "#" + strings.Repeat("x", 4<<20), "the file is larger than 4 MiB"},
		"long key":            {good + "? " + strings.Repeat("é", 500) + "\n: x\n", "unknown key \"" + strings.Repeat("é", 100) + "…\""},
		"deep YAML":           {"a: " + strings.Repeat("[", 500_000), "the file is not YAML: exceeded max depth of 10000"},
		"deep JSON":           {strings.Repeat(`{"a":`, 200_000), "exceeded max depth"},
		"nested":              {good + "define: " + strings.Repeat("[", 100) + strings.Repeat("]", 100), "the values are nested more than 64 deep"},
		"control character":   {good + "    contact: \x01\n", "f:6:14: the file is not text: byte 0x01"},
		"no UTF-8":            {good + "    contact: é\xff\n", "f:6:15: the file is not text: byte 0xff"},
	} {
		_, _, err := ParseIssuers("f", []byte(tt.content), false, nil)
		if got := lines(err); len(got) != 1 || !strings.Contains(got[0], tt.want) {
			t.Errorf("%s: got %q, want one mistake with %q", name, got, tt.want)
		}
	}
	_, _, err := ParseIssuers("f", []byte(good+strings.Repeat("    type: x\n", 300)), false, nil)
	if got := lines(err); len(got) != 101 || got[100] != "f: and 200 more" {
		t.Errorf("%d mistakes, the last %q", len(got), got[len(got)-1])
	}
}

// TestFormsOfOneFile tests that what surrounds the content of a file does not change it.
func TestFormsOfOneFile(t *testing.T) {
	t.Parallel()
	const inJSON = `{"OIDCIssuers": {"https://a.example": {"IssuerURL": "https://a.example", "ClientID": "sigstore", "Type": "email"}}}`
	want, _, err := ParseIssuers("f", []byte(good), false, nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, content := range []string{"\ufeff" + good, inJSON, " \n\t" + inJSON, "\ufeff" + inJSON + "\n\t\n"} {
		got, warnings, err := ParseIssuers("f", []byte(content), false, nil)
		if err != nil || len(warnings) > 0 {
			t.Errorf("%q: mistakes %v, warnings %v", content, err, warnings)
		} else if diff := cmp.Diff(want.Entries, got.Entries); diff != "" {
			t.Errorf("%q (-want +got):\n%s", content, diff)
		}
	}
}

func TestUnreadableFiles(t *testing.T) {
	t.Parallel()
	missing, large := filepath.Join(t.TempDir(), "m"), writeFile(t, good+"# "+strings.Repeat("x", 5<<20))
	for name, load := range map[string]func(path string) error{
		"server":   func(path string) error { _, _, err := LoadServer(path, nil); return err },
		"issuers":  func(path string) error { _, _, err := LoadIssuers(path, false, nil); return err },
		"caset":    func(path string) error { _, _, err := LoadCASet(path); return err },
		"ceremony": func(path string) error { _, _, err := LoadCeremony(path); return err },
		"IsServer": func(path string) error { _, err := IsServer(path); return err },
	} {
		if err := load(missing); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("%s, missing: %v", name, err)
		}
		if err := load(large); err == nil || !strings.Contains(err.Error(), large+" has more than 4194304 bytes") {
			t.Errorf("%s, large: %v", name, err)
		}
	}
}

func TestIsServer(t *testing.T) {
	t.Parallel()
	for content, want := range map[string]bool{
		"issuers: a.yaml":        true,
		"listen: {http: a}":      true,
		"oidc-issuers: {}":       false,
		"oidc-issuer: {}":        false,
		`{"OIDCIssuers": {}}`:    false,
		"":                       false,
		"issuers: [unclosed":     false,
		"define: {}\nct: {a: b}": true,
	} {
		if got, err := IsServer(writeFile(t, content)); got != want || err != nil {
			t.Errorf("%q: %v, %v", content, got, err)
		}
	}
}

func TestSecretIsNeverShown(t *testing.T) {
	t.Parallel()
	const password = "hunter2"
	server, _, err := ParseServer("m", []byte(least), []string{"MAYFLY_OIDC_PROXY=http://user:" + password + "@proxy.example"})
	if err != nil || !strings.Contains(server.OIDC.Proxy.Reveal(), password) {
		t.Fatal(err)
	}
	var shown bytes.Buffer
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%d"} {
		fmt.Fprintf(&shown, verb+"\n", server.OIDC.Proxy)
		fmt.Fprintf(&shown, verb+"\n", server.OIDC)
		fmt.Fprintf(&shown, verb+"\n", server)
	}
	slog.New(slog.NewTextHandler(&shown, nil)).Info("config", "proxy", server.OIDC.Proxy, "server", server)
	slog.New(slog.NewJSONHandler(&shown, nil)).Info("config", "proxy", server.OIDC.Proxy)
	if err := json.NewEncoder(&shown).Encode(server.OIDC.Proxy); err != nil {
		t.Fatal(err)
	}
	_, _, err = ParseServer("m", []byte(least+"oidc: {proxy: \"socks5://user:"+password+"@proxy:1080\"}\n"), nil)
	fmt.Fprintln(&shown, err)
	_, _, err = ParseServer("m", []byte(least+"oidc: {proxy: 4711}\n"), nil)
	fmt.Fprintln(&shown, err)
	if err == nil || strings.Contains(shown.String(), "4711") || strings.Contains(shown.String(), password) || strings.Contains(shown.String(), fmt.Sprintf("%x", password)) {
		t.Errorf("the password is shown:\n%s", shown.String())
	}
}

// TestExampleIsWholeAndTrue reads the example, and again with every commented-out key enabled: each
// key is in it, and those shown as defaults are the defaults.
func TestExampleIsWholeAndTrue(t *testing.T) {
	t.Parallel()
	content, err := os.ReadFile("mayfly.example.yaml")
	if err != nil {
		t.Fatal(err)
	}
	var whole strings.Builder
	for line := range strings.Lines(string(content)) {
		indent := line[:len(line)-len(strings.TrimLeft(line, " "))]
		key, ok := strings.CutPrefix(strings.TrimLeft(line, " "), "# ")
		switch {
		case !ok, strings.HasPrefix(key, "set:"), strings.HasPrefix(key, "signer_socket:"), strings.HasPrefix(key, "disabled:"):
			whole.WriteString(line)
		case strings.HasPrefix(strings.TrimSpace(key), "- "), isKey(key):
			whole.WriteString(indent + key)
		}
	}
	var asIs, all strings.Builder
	server := &Server{}
	for content, out := range map[string]*strings.Builder{string(content): &asIs, whole.String(): &all} {
		read, warnings, err := ParseServer("", []byte(content), nil)
		if err != nil || len(warnings) > 0 {
			t.Fatalf("mistakes %v, warnings %v in\n%s", err, warnings, content)
		}
		if show(out, "", reflect.ValueOf(*read)); out == &all {
			server = read
		}
	}
	for line := range strings.Lines(asIs.String()) {
		if !strings.Contains(all.String(), line) {
			t.Errorf("%q is so without the commented-out keys, and is not what they show", strings.TrimSpace(line))
		}
	}
	scalarKeys(reflect.TypeFor[Server](), "", func(key string, _ field) {
		if !server.Sets(strings.Split(key, ".")...) && !slices.Contains([]string{"ca.set", "ca.signer_socket", "ct.disabled"}, key) {
			t.Errorf("the example lacks %s", key)
		}
	})
	if len(server.Keys.Algorithms) != 7 || len(server.CT.Logs) != 2 || server.CT.Logs[1].Embedded.Submit == nil {
		t.Errorf("got %+v", server)
	}
}

// isKey distinguishes a commented-out key from prose: one lower-case word and a colon.
func isKey(line string) bool {
	word, _, ok := strings.Cut(strings.TrimSpace(line), ":")
	return ok && word != "" && strings.Trim(word, "abcdefghijklmnopqrstuvwxyz_") == ""
}

// TestShippedIssuers holds what the shipped file trusts by default. With the metadata, the peer reads
// this file too, so it has no key that only mayfly knows. -update writes the result.
func TestShippedIssuers(t *testing.T) {
	t.Parallel()
	content, err := os.ReadFile("issuers.yaml")
	if err != nil {
		t.Fatal(err)
	}
	_, got := outcomeOf("issuers", "dir/m", content, nil)
	const path = "testdata/shipped.txt"
	if *update {
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), got); diff != "" {
		t.Errorf("shipped issuers (-want +got):\n%s", diff)
	}
}
