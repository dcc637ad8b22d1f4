// SPDX-License-Identifier: Apache-2.0

package app_test

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/mayfly-ca/mayfly/app"
	"github.com/mayfly-ca/mayfly/app/keyring"
	"github.com/mayfly-ca/mayfly/ca/set"
	"github.com/mayfly-ca/mayfly/ctlog/embedded"
	"github.com/mayfly-ca/mayfly/test/testworld"
)

const (
	embeddedLog   = `{embedded: {name: "2026", dir: log, guard: guard/2026.json, key: log.key, origin: log.example/2026}}`
	remoteLog     = `public_key: log.pub}`
	chainFile     = "ca/*-a/chain.pem"
	caKeyFile     = "ca/*-a/key.pem"
	caPassword    = "ca/*-a/pass"
	embeddedKey   = "log.key"
	treeState     = "log/.state/treeState"
	embeddedGuard = "guard/2026.json"
)

func remoteEntry(w *testworld.World) string { return `{url: "` + w.LogURL + `", public_key: log.pub}` }

// withEmbedded replaces the world's remote log by an embedded one.
func withEmbedded(t *testing.T, w *testworld.World) {
	initLog(t, w)
	edited("mayfly.yaml", remoteEntry(w), embeddedLog)(t, w)
}

func initLog(t *testing.T, w *testworld.World) (publicKey []byte) {
	t.Helper()
	created := must(embedded.Init(t.Context(), embedded.Config{
		Name: "2026", Dir: path(w, "log"), Guard: path(w, embeddedGuard), Key: path(w, embeddedKey), Origin: "log.example/2026",
	}))(t)
	return created.PublicKey
}

// withSet makes the world's configuration name its CA set.
func withSet(t *testing.T, w *testworld.World) {
	rewritten("mayfly.yaml", func(text string) string {
		return regexp.MustCompile(`(?m)^  file: .*$`).ReplaceAllString(text, "  set: ca/ca.yaml")
	})(t, w)
}

// compromised ends the trust in the only authority of the set.
func compromised(t *testing.T, w *testworld.World) {
	file := path(w, "ca/ca.yaml")
	editor := set.Editor{Path: file, Now: time.Now(), Ring: keyring.New(keyring.Config{})}
	must(editor.Compromise(t.Context(), filepath.Base(filepath.Dir(path(w, chainFile))), time.Now().Add(-time.Hour)))(t)
}

func withTLS(t *testing.T, w *testworld.World) {
	writeTLS(t, w.Dir, 1)
	setting("tls: {certificate: cert.pem, key: key.pem}")(t, w)
}

func moved(from, to string) step {
	return func(t *testing.T, w *testworld.World) { must(0, os.Rename(path(w, from), path(w, to)))(t) }
}

// folder replaces a file by a folder.
func folder(pattern string) step {
	return func(t *testing.T, w *testworld.World) {
		file := path(w, pattern)
		must(0, errors.Join(os.RemoveAll(file), os.Mkdir(file, 0o700)))(t)
	}
}

func link(target, name string) step {
	return func(t *testing.T, w *testworld.World) { must(0, os.Symlink(target, path(w, name)))(t) }
}

// logURL replaces the URL of the world's log.
func logURL(url string) step {
	return func(t *testing.T, w *testworld.World) { edited("mayfly.yaml", w.LogURL, url)(t, w) }
}

// embeddedSetting adds a setting to the embedded log.
func embeddedSetting(text string) step {
	return edited("mayfly.yaml", "origin: log.example/2026", "origin: log.example/2026, "+text)
}

// remoteSetting adds a setting to the world's log.
func remoteSetting(text string) step {
	return edited("mayfly.yaml", remoteLog, strings.TrimSuffix(remoteLog, "}")+", "+text+"}")
}

// ofAnother replaces files by those of another world.
func ofAnother(prepare step, patterns ...string) step {
	return func(t *testing.T, w *testworld.World) {
		other := newWorld(t, prepare)
		for _, pattern := range patterns {
			written(pattern, string(must(os.ReadFile(path(other, pattern)))(t)))(t, w)
		}
	}
}

func nothing(*testing.T, *testworld.World) {}

// agreement has variants of a configuration and its files, each with the place at which config check
// reports the mistake; "" where a server starts.
var agreement = map[string]struct {
	want  string
	steps []step
}{
	"nothing":     {"", nil},
	"nothing, CA": {"", []step{withSet}},
	"nothing, CT": {"", []step{withEmbedded}},
	// The settings.
	"checkpoint_interval":  {"mayfly.yaml:8:", []step{withEmbedded, embeddedSetting("checkpoint_interval: 30s")}},
	"batch_age":            {"mayfly.yaml:8:", []step{withEmbedded, embeddedSetting("batch_age: 2s")}},
	"log's name":           {"mayfly.yaml:8:", []step{withEmbedded, edited("mayfly.yaml", `name: "2026"`, "name: a/b")}},
	"log's origin":         {"mayfly.yaml:8:", []step{withEmbedded, edited("mayfly.yaml", "origin: log", "origin: https://log")}},
	"guard inside":         {"mayfly.yaml:8:", []step{withEmbedded, edited("mayfly.yaml", "guard: guard/", "guard: log/")}},
	"log's window":         {"mayfly.yaml:8:", []step{remoteSetting("activate_at: 2027-01-01T00:00:00Z, retire_at: 2026-01-01T00:00:00Z")}},
	"log's URL":            {"mayfly.yaml:8:", []step{logURL("ftp://log.example")}},
	"key algorithm":        {"mayfly.yaml:9:", []step{setting("keys: {algorithms: [rsa-1024]}")}},
	"lifetime":             {"mayfly.yaml:9:", []step{setting("certificate: {lifetime: 2h}")}},
	"connections":          {"mayfly.yaml:9:", []step{setting("limits: {connections: 999999999}")}},
	"trusted entry":        {"mayfly.yaml:10:", []step{setting("public_url: https://ca.example\ntrust: {tlogs: [{baseUrl: [1]}]}")}},
	"a socket without set": {"mayfly.yaml:5:", []step{edited("mayfly.yaml", "ca:\n", "ca:\n  signer_socket: s\n")}},
	"a socket's long path": {"mayfly.yaml:5:", []step{withSet, edited("mayfly.yaml", "ca:\n", "ca:\n  signer_socket: "+strings.Repeat("s", 200)+"\n")}},
	"a socket":             {"", []step{withSet, edited("mayfly.yaml", "ca:\n", "ca:\n  signer_socket: s\n"), removed(caKeyFile)}},
	"no loopback issuers":  {"issuers.yaml:3:17: ", []step{edited("mayfly.yaml", "oidc: {allow_loopback: true}", "")}},
	// The issuer file.
	"no issuer file":    {"mayfly.yaml:2:10: ", []step{removed("issuers.yaml")}},
	"an unknown type":   {"issuers.yaml:5:11: ", []step{edited("issuers.yaml", "type: email", "type: mail")}},
	"an issuer's CA":    {"issuers.yaml:6:14: ", []step{edited("issuers.yaml", "type: email", "type: email\n    ca-cert: x")}},
	"issuers: a folder": {"mayfly.yaml:2:10: ", []step{edited("mayfly.yaml", "issuers: issuers.yaml", "issuers: ca")}},
	// ca.file.
	"no chain":           {"mayfly.yaml:5:", []step{removed(chainFile)}},
	"a chain of nothing": {"mayfly.yaml:5:", []step{written(chainFile, "")}},
	"no key":             {"mayfly.yaml:5:", []step{removed(caKeyFile)}},
	"a key of nothing":   {"mayfly.yaml:5:", []step{written(caKeyFile, "x")}},
	"no password":        {"mayfly.yaml:5:", []step{removed(caPassword)}},
	"an empty password":  {"mayfly.yaml:5:", []step{written(caPassword, "\n")}},
	"the wrong password": {"mayfly.yaml:5:", []step{written(caPassword, "x")}},
	"another CA's key":   {"mayfly.yaml:5:", []step{ofAnother(nothing, caKeyFile, caPassword)}},
	"a chain upside down": {"mayfly.yaml:5:", []step{rewritten(chainFile, func(text string) string {
		i := strings.LastIndex(text, "-----BEGIN")
		return text[i:] + text[:i]
	})}},
	"a chain that is a folder": {"mayfly.yaml:5:", []step{folder(chainFile)}},
	"a key that is a folder":   {"mayfly.yaml:5:", []step{folder(caKeyFile)}},
	// ca.set.
	"no ca.yaml":           {"mayfly.yaml:5:", []step{withSet, removed("ca/ca.yaml")}},
	"an empty ca.yaml":     {"ca.yaml:1:1: ", []step{withSet, written("ca/ca.yaml", "")}},
	"no authorities":       {"ca.yaml:2:1: ", []step{withSet, written("ca/ca.yaml", "generation: 1\nauthorities: []\n")}},
	"its key compromised":  {"", []step{withSet, setting("public_url: https://ca.example"), compromised}}, // an edit brings another, without a restart
	"an authority's chain": {"ca.yaml:", []step{withSet, removed(chainFile)}},
	"an authority's key":   {"ca.yaml:", []step{withSet, removed(caKeyFile)}},
	"its wrong password":   {"ca.yaml:", []step{withSet, written(caPassword, "x")}},
	"an unknown service": {"ca.yaml:", []step{withSet, rewritten("ca/ca.yaml", func(text string) string {
		const signer = "    signer: {kms: {uri: awskms:///arn:aws:kms:eu-west-1:111122223333:key/1234abcd-12ab-34cd-56ef-1234567890ab}}"
		return regexp.MustCompile(`(?m)^    signer:.*(\n      .*)*`).ReplaceAllString(text, signer)
	})}},
	"a set not yet active": {"ca.yaml:", []step{withSet, rewritten("ca/ca.yaml", func(text string) string {
		return regexp.MustCompile(`activate_at: .*`).ReplaceAllString(text, "activate_at: 2099-01-01T00:00:00Z")
	})}},
	// The logs.
	"no log's key":             {"mayfly.yaml:8:", []step{removed("log.pub")}},
	"a log's key of nothing":   {"mayfly.yaml:8:", []step{written("log.pub", "x")}},
	"a log's key, a folder":    {"mayfly.yaml:8:", []step{folder("log.pub")}},
	"a dangling link":          {"mayfly.yaml:8:", []step{removed("log.pub"), link("nowhere", "log.pub")}},
	"a log twice":              {"mayfly.yaml:9:", []step{edited("mayfly.yaml", remoteLog, remoteLog+"\n    - {url: \"http://127.0.0.1:1\", public_key: log.pub}")}},
	"no token":                 {"mayfly.yaml:8:", []step{remoteSetting("token_file: none")}},
	"an empty token":           {"mayfly.yaml:8:", []step{remoteSetting("token_file: token"), written("token", "\n")}},
	"a token in clear":         {"mayfly.yaml:8:", []step{remoteSetting("token_file: token"), written("token", "0123456789abcdef"), logURL("http://log.example")}},
	"no log":                   {"mayfly.yaml:8:", []step{withEmbedded, removed("log"), removed("guard"), removed(embeddedKey)}},
	"no log's directory":       {"mayfly.yaml:8:", []step{withEmbedded, removed("log")}},
	"an empty log directory":   {"mayfly.yaml:8:", []step{withEmbedded, folder("log")}},
	"no private log key":       {"mayfly.yaml:8:", []step{withEmbedded, removed(embeddedKey)}},
	"a log key of nothing":     {"mayfly.yaml:8:", []step{withEmbedded, written(embeddedKey, "x")}},
	"another log's key":        {"mayfly.yaml:8:", []step{withEmbedded, ofAnother(withEmbedded, embeddedKey)}},
	"another log's origin":     {"mayfly.yaml:8:", []step{withEmbedded, edited("mayfly.yaml", "origin: log.example", "origin: other.example")}},
	"no guard":                 {"", []step{withEmbedded, removed(embeddedGuard)}}, // it starts, takes no entry, and causes a warning
	"no guard's directory":     {"mayfly.yaml:8:", []step{withEmbedded, removed("guard")}},
	"a tree of nothing":        {"", []step{withEmbedded, written(treeState, "x")}},
	"a tree that is a folder":  {"mayfly.yaml:8:", []step{withEmbedded, folder(treeState)}},
	"no checkpoint":            {"", []step{withEmbedded, removed("log/checkpoint")}},
	"a checkpoint of nothing":  {"", []step{withEmbedded, written("log/checkpoint", "x")}},
	"a guard of nothing":       {"", []step{withEmbedded, written(embeddedGuard, "x")}},
	"a guard that is a folder": {"", []step{withEmbedded, folder(embeddedGuard)}},
	"a lock that is a folder":  {"mayfly.yaml:8:", []step{withEmbedded, folder(embeddedGuard + ".lock")}},
	"a log that is a file":     {"mayfly.yaml:8:", []step{withEmbedded, removed("log"), written("log", "")}},
	"a log that is a link":     {"", []step{withEmbedded, moved("log", "elsewhere"), link("elsewhere", "log")}},
	"no issuers in the log":    {"mayfly.yaml:8:", []step{withEmbedded, removed("log/issuer")}},
	"no submission token":      {"mayfly.yaml:8:", []step{withEmbedded, embeddedSetting("submit: {token_file: none}")}},
	"a short token":            {"mayfly.yaml:8:", []step{withEmbedded, embeddedSetting("submit: {token_file: token}"), written("token", "short")}},
	"both logs, one key": {"mayfly.yaml:9:", []step{func(t *testing.T, w *testworld.World) {
		written("log.pub", string(initLog(t, w)))(t, w)
		edited("mayfly.yaml", remoteEntry(w), remoteEntry(w)+"\n    - "+embeddedLog)(t, w)
	}}},
	// TLS.
	"TLS":             {"", []step{withTLS}},
	"no TLS pair":     {"mayfly.yaml:9:", []step{withTLS, removed("cert.pem"), removed("key.pem")}},
	"half a TLS pair": {"mayfly.yaml:9:", []step{withTLS, written("key.pem", "x")}},
}

// contents is every file below dir, with the digest of its content.
func contents(t *testing.T, dir string) map[string][sha256.Size]byte {
	t.Helper()
	found := make(map[string][sha256.Size]byte)
	must(0, filepath.WalkDir(dir, func(name string, entry fs.DirEntry, err error) error {
		if err != nil || !entry.Type().IsRegular() {
			found[name] = [sha256.Size]byte{}
			return err
		}
		content, err := os.ReadFile(name)
		found[name] = sha256.Sum256(content)
		return err
	}))(t)
	return found
}

func check(t *testing.T, w *testworld.World, change func(*app.CheckOptions)) *app.CheckReport {
	t.Helper()
	options := app.CheckOptions{File: w.ConfigFile}
	if change != nil {
		change(&options)
	}
	return must(app.Check(t.Context(), options))(t)
}

func expect(t *testing.T, what string, err error, want string) {
	t.Helper()
	if (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
		t.Errorf("%s: got error %v, want one with %q", what, err, want)
	}
}

// build builds a server and closes it.
func build(t *testing.T, w *testworld.World) error {
	t.Helper()
	built, err := app.Build(t.Context(), app.Options{ConfigFile: w.ConfigFile})
	if err == nil {
		err = built.Close(t.Context())
	}
	return err
}

// TestServeAndConfigCheckAgree: config check refuses exactly what serve refuses to start with, at the
// same line of a file, and changes nothing.
func TestServeAndConfigCheckAgree(t *testing.T) {
	t.Parallel()
	place := regexp.MustCompile(`[\w/.-]+\.yaml:\d+:\d+: `)
	for name, test := range agreement {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, test.steps...)
			before := contents(t, w.Dir)
			report := check(t, w, nil)
			for name, content := range contents(t, w.Dir) {
				if old, ok := before[name]; !ok || old != content {
					t.Errorf("the check has written %s", name)
				}
			}
			err, found := build(t, w), errors.Join(report.Mistakes...)
			if refused := test.want != ""; (err != nil) != refused || (found != nil) != refused {
				t.Fatalf("serve: %v\nconfig check: %v\nwant refused: %v", err, found, refused)
			}
			for _, mistake := range report.Mistakes {
				if !place.MatchString(mistake.Error()) {
					t.Errorf("%q has no place", mistake)
				}
			}
			if test.want != "" && !slices.ContainsFunc(report.Mistakes, func(m error) bool { return strings.Contains(m.Error(), test.want) }) {
				t.Errorf("config check: %v, want a mistake at %s", found, test.want)
			}
			if err != nil && !strings.Contains(err.Error(), place.FindString(report.Mistakes[0].Error())) {
				t.Errorf("serve: %v\nconfig check: %v", err, found)
			}
		})
	}
}

// TestCheckWithoutFiles: the check finds what the configuration alone decides, and reads no other
// file.
func TestCheckWithoutFiles(t *testing.T) {
	t.Parallel()
	for name, want := range map[string]string{"checkpoint_interval": "mayfly.yaml:8:", "log's window": "mayfly.yaml:8:", "key algorithm": "mayfly.yaml:9:", "an unknown type": "issuers.yaml:5:11: ", "no chain": "", "no ca.yaml": "", "no log": "", "no log's key": "", "no TLS pair": "", "no token": ""} {
		report := check(t, newWorld(t, agreement[name].steps...), func(o *app.CheckOptions) { o.NoFiles = true })
		expect(t, name, errors.Join(report.Mistakes...), want)
	}
}

// TestCheckReportsAllAtOnce: a check continues where a start stops, and reports a key once that two
// parts read.
func TestCheckReportsAllAtOnce(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	for _, name := range []string{"key algorithm", "an unknown type", "no key", "no private log key", "half a TLS pair"} {
		for _, change := range agreement[name].steps {
			change(t, w)
		}
	}
	if report := check(t, w, nil); len(report.Mistakes) != 5 {
		t.Errorf("%d mistakes, want 5: %v", len(report.Mistakes), errors.Join(report.Mistakes...))
	}
}

// TestCheckWarns: a server starts in these states, and the check warns of each, besides one warning of
// allow_loopback.
func TestCheckWarns(t *testing.T) {
	t.Parallel()
	cluster := newWorld(t, written("token", "\n"),
		edited("mayfly.yaml", "oidc: {allow_loopback: true}", "oidc: {allow_loopback: true, kubernetes: {ca_file: missing, token_file: token}}"))
	if report := check(t, cluster, nil); len(report.Mistakes) > 0 || len(report.Warnings) != 1+2 {
		t.Errorf("unusable files of oidc.kubernetes: mistakes %v, warnings %v", report.Mistakes, report.Warnings)
	}
	// A log that a server has open is checked; without its guard it would take no entry.
	w := newWorld(t, withEmbedded)
	start(t, w)
	if report := check(t, w, nil); len(report.Mistakes) > 0 || len(report.Warnings) != 1 {
		t.Errorf("beside a server: mistakes %v, warnings %v", report.Mistakes, report.Warnings)
	}
	removed(embeddedGuard)(t, w)
	if report := check(t, w, nil); len(report.Mistakes) > 0 || len(report.Warnings) != 1+1 || !strings.Contains(report.Warnings[1].Error(), "mayfly.yaml:8:") {
		t.Errorf("without a guard: mistakes %v, warnings %v", report.Mistakes, report.Warnings)
	}
	// A file that every user can read is reported at the key that names it.
	must(0, os.Chmod(path(w, caPassword), 0o644))(t)
	line := strings.Split(string(must(os.ReadFile(w.ConfigFile))(t)), "\n")[4]
	column := strings.Index(line, "password_file: ") + len("password_file: ") + 1
	if report := check(t, w, nil); !strings.Contains(errors.Join(report.Warnings...).Error(), fmt.Sprintf("mayfly.yaml:5:%d: ", column)) {
		t.Errorf("an open password file: %v", report.Warnings)
	}
}
