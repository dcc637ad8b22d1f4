// SPDX-License-Identifier: Apache-2.0

package app_test

import (
	"crypto/sha256"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/mayfly-ca/mayfly/app"
	"github.com/mayfly-ca/mayfly/ctlog/embedded"
	"github.com/mayfly-ca/mayfly/test/testworld"
)

const embeddedEntry = `{embedded: {name: "2026", dir: log, guard: guard/2026.json, key: log.key, origin: log.example/2026}}`

func withLog(t *testing.T, w *testworld.World) { embedLog(t, w) }

// embedLog replaces the world's remote log by an embedded one, and returns its public key.
func embedLog(t *testing.T, w *testworld.World) (publicKey []byte) {
	t.Helper()
	path := func(name string) string { return filepath.Join(w.Dir, name) }
	created := must(embedded.Init(t.Context(), embedded.Config{
		Name: "2026", Dir: path("log"), Guard: path("guard/2026.json"), Key: path("log.key"), Origin: "log.example/2026",
	}))(t)
	edit(t, w, "mayfly.yaml", remoteEntry(w), embeddedEntry)
	return created.PublicKey
}

func remoteEntry(w *testworld.World) string { return `{url: "` + w.LogURL + `", public_key: log.pub}` }

// withSet makes the world's configuration name its CA set.
func withSet(t *testing.T, w *testworld.World) {
	t.Helper()
	line := strings.Split(string(must(os.ReadFile(w.ConfigFile))(t)), "\n")[4]
	edit(t, w, "mayfly.yaml", line, "  set: ca/ca.yaml")
}

// caFile is a file of the world's authority.
func caFile(t *testing.T, w *testworld.World, name string) string {
	t.Helper()
	file := must(filepath.Glob(filepath.Join(w.Dir, "ca", "*-a", name)))(t)[0]
	return must(filepath.Rel(w.Dir, file))(t)
}

// broken variants of a configuration and its files, each with the place at which config check
// reports the mistake; "" where a server starts.
var agreement = map[string]struct {
	change func(*testing.T, *testworld.World)
	want   string
}{
	"nothing":     {func(*testing.T, *testworld.World) {}, ""},
	"nothing, CA": {withSet, ""},
	"nothing, CT": {withLog, ""},
	// The settings.
	"checkpoint_interval": {func(t *testing.T, w *testworld.World) {
		withLog(t, w)
		edit(t, w, "mayfly.yaml", "origin: log.example/2026", "origin: log.example/2026, checkpoint_interval: 30s")
	}, "mayfly.yaml:8:"},
	"batch_age": {func(t *testing.T, w *testworld.World) {
		withLog(t, w)
		edit(t, w, "mayfly.yaml", "origin: log.example/2026", "origin: log.example/2026, batch_age: 2s")
	}, "mayfly.yaml:8:"},
	"log's name": {func(t *testing.T, w *testworld.World) {
		withLog(t, w)
		edit(t, w, "mayfly.yaml", `name: "2026"`, "name: a/b")
	}, "mayfly.yaml:8:"},
	"log's origin": {func(t *testing.T, w *testworld.World) {
		withLog(t, w)
		edit(t, w, "mayfly.yaml", "origin: log.example", "origin: https://log.example")
	}, "mayfly.yaml:8:"},
	"guard inside": {func(t *testing.T, w *testworld.World) {
		withLog(t, w)
		edit(t, w, "mayfly.yaml", "guard: guard/", "guard: log/")
	}, "mayfly.yaml:8:"},
	"log's window": {func(t *testing.T, w *testworld.World) {
		edit(t, w, "mayfly.yaml", "public_key: log.pub", "public_key: log.pub, activate_at: 2027-01-01T00:00:00Z, retire_at: 2026-01-01T00:00:00Z")
	}, "mayfly.yaml:8:"},
	"log's URL": {func(t *testing.T, w *testworld.World) { edit(t, w, "mayfly.yaml", w.LogURL, "ftp://log.example") }, "mayfly.yaml:8:"},
	"key algorithm": {func(t *testing.T, w *testworld.World) {
		edit(t, w, "mayfly.yaml", "log: {", "keys: {algorithms: [rsa-1024]}\nlog: {")
	}, "mayfly.yaml:9:"},
	"lifetime": {func(t *testing.T, w *testworld.World) {
		edit(t, w, "mayfly.yaml", "log: {", "certificate: {lifetime: 2h}\nlog: {")
	}, "mayfly.yaml:9:"},
	"connections": {func(t *testing.T, w *testworld.World) {
		edit(t, w, "mayfly.yaml", "log: {", "limits: {connections: 999999999}\nlog: {")
	}, "mayfly.yaml:9:"},
	"trusted entry": {func(t *testing.T, w *testworld.World) {
		edit(t, w, "mayfly.yaml", "log: {", "public_url: https://ca.example\ntrust: {tlogs: [{baseUrl: [1]}]}\nlog: {")
	}, "mayfly.yaml:10:"},
	"a socket without set": {func(t *testing.T, w *testworld.World) {
		edit(t, w, "mayfly.yaml", "ca:\n", "ca:\n  signer_socket: s\n")
	}, "mayfly.yaml:5:"},
	"a socket's long path": {func(t *testing.T, w *testworld.World) {
		withSet(t, w)
		edit(t, w, "mayfly.yaml", "ca:\n", "ca:\n  signer_socket: "+strings.Repeat("s", 200)+"\n")
	}, "mayfly.yaml:5:"},
	"a socket": {func(t *testing.T, w *testworld.World) {
		withSet(t, w)
		edit(t, w, "mayfly.yaml", "ca:\n", "ca:\n  signer_socket: s\n")
		remove(t, w.Dir, caFile(t, w, "key.pem"))
	}, ""},
	// The issuer file.
	"no issuer file":  {func(t *testing.T, w *testworld.World) { remove(t, w.Dir, "issuers.yaml") }, "mayfly.yaml:2:10: "},
	"an unknown type": {func(t *testing.T, w *testworld.World) { edit(t, w, "issuers.yaml", "type: email", "type: mail") }, "issuers.yaml:5:11: "},
	"an issuer's CA": {func(t *testing.T, w *testworld.World) {
		edit(t, w, "issuers.yaml", "type: email", "type: email\n    ca-cert: x")
	}, "issuers.yaml:6:14: "},
	"issuers: a folder": {func(t *testing.T, w *testworld.World) {
		edit(t, w, "mayfly.yaml", "issuers: issuers.yaml", "issuers: ca")
	}, "mayfly.yaml:2:10: "},
	// ca.file.
	"no chain":           {func(t *testing.T, w *testworld.World) { remove(t, w.Dir, caFile(t, w, "chain.pem")) }, "mayfly.yaml:5:"},
	"a chain of nothing": {func(t *testing.T, w *testworld.World) { write(t, w, caFile(t, w, "chain.pem"), "") }, "mayfly.yaml:5:"},
	"no key":             {func(t *testing.T, w *testworld.World) { remove(t, w.Dir, caFile(t, w, "key.pem")) }, "mayfly.yaml:5:"},
	"a key of nothing":   {func(t *testing.T, w *testworld.World) { write(t, w, caFile(t, w, "key.pem"), "x") }, "mayfly.yaml:5:"},
	"no password":        {func(t *testing.T, w *testworld.World) { remove(t, w.Dir, caFile(t, w, "pass")) }, "mayfly.yaml:5:"},
	"an empty password":  {func(t *testing.T, w *testworld.World) { write(t, w, caFile(t, w, "pass"), "\n") }, "mayfly.yaml:5:"},
	"the wrong password": {func(t *testing.T, w *testworld.World) { write(t, w, caFile(t, w, "pass"), "x") }, "mayfly.yaml:5:"},
	"another CA's key": {func(t *testing.T, w *testworld.World) {
		other := newWorld(t)
		for _, name := range []string{"key.pem", "pass"} {
			write(t, w, caFile(t, w, name), string(must(os.ReadFile(filepath.Join(other.Dir, caFile(t, other, name))))(t)))
		}
	}, "mayfly.yaml:5:"},
	"a chain upside down": {func(t *testing.T, w *testworld.World) {
		text := string(must(os.ReadFile(filepath.Join(w.Dir, caFile(t, w, "chain.pem"))))(t))
		i := strings.LastIndex(text, "-----BEGIN")
		write(t, w, caFile(t, w, "chain.pem"), text[i:]+text[:i])
	}, "mayfly.yaml:5:"},
	// ca.set.
	"no ca.yaml":           {func(t *testing.T, w *testworld.World) { withSet(t, w); remove(t, w.Dir, "ca/ca.yaml") }, "mayfly.yaml:5:"},
	"an empty ca.yaml":     {func(t *testing.T, w *testworld.World) { withSet(t, w); write(t, w, "ca/ca.yaml", "") }, "ca.yaml:1:1: "},
	"an authority's chain": {func(t *testing.T, w *testworld.World) { withSet(t, w); remove(t, w.Dir, caFile(t, w, "chain.pem")) }, "ca.yaml:"},
	"an authority's key":   {func(t *testing.T, w *testworld.World) { withSet(t, w); remove(t, w.Dir, caFile(t, w, "key.pem")) }, "ca.yaml:"},
	"its wrong password":   {func(t *testing.T, w *testworld.World) { withSet(t, w); write(t, w, caFile(t, w, "pass"), "x") }, "ca.yaml:"},
	"an unknown service": {func(t *testing.T, w *testworld.World) {
		withSet(t, w)
		setSigner(t, w, "{kms: {uri: awskms:///arn:aws:kms:eu-west-1:111122223333:key/1234abcd-12ab-34cd-56ef-1234567890ab}}")
	}, "ca.yaml:"},
	"a set not yet active": {func(t *testing.T, w *testworld.World) {
		withSet(t, w)
		write(t, w, "ca/ca.yaml", regexp.MustCompile(`activate_at: .*`).ReplaceAllString(string(must(os.ReadFile(filepath.Join(w.Dir, "ca/ca.yaml")))(t)), "activate_at: 2099-01-01T00:00:00Z"))
	}, "ca.yaml:"},
	// The logs.
	"no log's key":           {func(t *testing.T, w *testworld.World) { remove(t, w.Dir, "log.pub") }, "mayfly.yaml:8:"},
	"a log's key of nothing": {func(t *testing.T, w *testworld.World) { write(t, w, "log.pub", "x") }, "mayfly.yaml:8:"},
	"a log twice": {func(t *testing.T, w *testworld.World) {
		edit(t, w, "mayfly.yaml", remoteEntry(w), remoteEntry(w)+"\n    - {url: \"http://127.0.0.1:1\", public_key: log.pub}")
	}, "mayfly.yaml:9:"},
	"no token": {func(t *testing.T, w *testworld.World) {
		edit(t, w, "mayfly.yaml", "public_key: log.pub", "public_key: log.pub, token_file: none")
	}, "mayfly.yaml:8:"},
	"an empty token": {func(t *testing.T, w *testworld.World) {
		write(t, w, "token", "\n")
		edit(t, w, "mayfly.yaml", "public_key: log.pub", "public_key: log.pub, token_file: token")
	}, "mayfly.yaml:8:"},
	"a token in clear": {func(t *testing.T, w *testworld.World) {
		write(t, w, "token", "0123456789abcdef")
		edit(t, w, "mayfly.yaml", w.LogURL, "http://log.example")
		edit(t, w, "mayfly.yaml", "public_key: log.pub", "public_key: log.pub, token_file: token")
	}, "mayfly.yaml:8:"},
	"no log":             {func(t *testing.T, w *testworld.World) { edit(t, w, "mayfly.yaml", remoteEntry(w), embeddedEntry) }, "mayfly.yaml:8:"},
	"no log's directory": {func(t *testing.T, w *testworld.World) { withLog(t, w); rename(t, w, "log", "elsewhere") }, "mayfly.yaml:8:"},
	"an empty log directory": {func(t *testing.T, w *testworld.World) {
		withLog(t, w)
		rename(t, w, "log", "elsewhere")
		must(0, os.Mkdir(filepath.Join(w.Dir, "log"), 0o700))(t)
	}, "mayfly.yaml:8:"},
	"no private log key":      {func(t *testing.T, w *testworld.World) { withLog(t, w); remove(t, w.Dir, "log.key") }, "mayfly.yaml:8:"},
	"a private log key of CA": {func(t *testing.T, w *testworld.World) { withLog(t, w); write(t, w, "log.key", "x") }, "mayfly.yaml:8:"},
	"another log's key": {func(t *testing.T, w *testworld.World) {
		withLog(t, w)
		other := newWorld(t)
		withLog(t, other)
		write(t, w, "log.key", string(must(os.ReadFile(filepath.Join(other.Dir, "log.key")))(t)))
	}, "mayfly.yaml:8:"},
	"another log's origin": {func(t *testing.T, w *testworld.World) {
		withLog(t, w)
		edit(t, w, "mayfly.yaml", "origin: log.example", "origin: other.example")
	}, "mayfly.yaml:8:"},
	"no guard":                 {func(t *testing.T, w *testworld.World) { withLog(t, w); remove(t, w.Dir, "guard/2026.json") }, ""}, // it starts, takes no entry, and causes a warning
	"no guard's directory":     {func(t *testing.T, w *testworld.World) { withLog(t, w); rename(t, w, "guard", "elsewhere") }, "mayfly.yaml:8:"},
	"a tree of nothing":        {func(t *testing.T, w *testworld.World) { withLog(t, w); write(t, w, "log/.state/treeState", "x") }, ""},
	"a tree that is a folder":  {func(t *testing.T, w *testworld.World) { withLog(t, w); folder(t, w, "log/.state/treeState") }, "mayfly.yaml:8:"},
	"no checkpoint":            {func(t *testing.T, w *testworld.World) { withLog(t, w); remove(t, w.Dir, "log/checkpoint") }, ""},
	"a checkpoint of nothing":  {func(t *testing.T, w *testworld.World) { withLog(t, w); write(t, w, "log/checkpoint", "x") }, ""},
	"a guard of nothing":       {func(t *testing.T, w *testworld.World) { withLog(t, w); write(t, w, "guard/2026.json", "x") }, ""},
	"a guard that is a folder": {func(t *testing.T, w *testworld.World) { withLog(t, w); folder(t, w, "guard/2026.json") }, ""},
	"a lock that is a folder":  {func(t *testing.T, w *testworld.World) { withLog(t, w); folder(t, w, "guard/2026.json.lock") }, "mayfly.yaml:8:"},
	"a log that is a file": {func(t *testing.T, w *testworld.World) {
		withLog(t, w)
		rename(t, w, "log", "elsewhere")
		write(t, w, "log", "")
	}, "mayfly.yaml:8:"},
	"a log that is a link": {func(t *testing.T, w *testworld.World) {
		withLog(t, w)
		rename(t, w, "log", "elsewhere")
		must(0, os.Symlink("elsewhere", filepath.Join(w.Dir, "log")))(t)
	}, ""},
	"no issuers in the log": {func(t *testing.T, w *testworld.World) {
		withLog(t, w)
		must(0, os.RemoveAll(filepath.Join(w.Dir, "log/issuer")))(t)
	}, "mayfly.yaml:8:"},
	"a chain that is a folder": {func(t *testing.T, w *testworld.World) { folder(t, w, caFile(t, w, "chain.pem")) }, "mayfly.yaml:5:"},
	"a key that is a folder":   {func(t *testing.T, w *testworld.World) { folder(t, w, caFile(t, w, "key.pem")) }, "mayfly.yaml:5:"},
	"a log's key, a folder":    {func(t *testing.T, w *testworld.World) { folder(t, w, "log.pub") }, "mayfly.yaml:8:"},
	"a dangling link": {func(t *testing.T, w *testworld.World) {
		remove(t, w.Dir, "log.pub")
		must(0, os.Symlink("nowhere", filepath.Join(w.Dir, "log.pub")))(t)
	}, "mayfly.yaml:8:"},
	"no submission token": {func(t *testing.T, w *testworld.World) {
		withLog(t, w)
		edit(t, w, "mayfly.yaml", "origin: log.example/2026", "origin: log.example/2026, submit: {token_file: none}")
	}, "mayfly.yaml:8:"},
	"a short token": {func(t *testing.T, w *testworld.World) {
		withLog(t, w)
		write(t, w, "token", "short")
		edit(t, w, "mayfly.yaml", "origin: log.example/2026", "origin: log.example/2026, submit: {token_file: token}")
	}, "mayfly.yaml:8:"},
	"both logs, one key": {func(t *testing.T, w *testworld.World) {
		remote := remoteEntry(w)
		write(t, w, "log.pub", string(embedLog(t, w)))
		edit(t, w, "mayfly.yaml", embeddedEntry, remote+"\n    - "+embeddedEntry)
	}, "mayfly.yaml:9:"},
	// TLS.
	"TLS":         {func(t *testing.T, w *testworld.World) { writeTLS(t, w.Dir, 1); withTLS(t, w) }, ""},
	"no TLS pair": {withTLS, "mayfly.yaml:9:"},
	"half a TLS pair": {func(t *testing.T, w *testworld.World) {
		writeTLS(t, w.Dir, 1)
		write(t, w, "key.pem", "x")
		withTLS(t, w)
	}, "mayfly.yaml:9:"},
}

func withTLS(t *testing.T, w *testworld.World) {
	t.Helper()
	edit(t, w, "mayfly.yaml", "log: {", "tls: {certificate: cert.pem, key: key.pem}\nlog: {")
}

func rename(t *testing.T, w *testworld.World, from, to string) {
	t.Helper()
	if err := os.Rename(filepath.Join(w.Dir, from), filepath.Join(w.Dir, to)); err != nil {
		t.Fatal(err)
	}
}

// folder replaces a file by a folder.
func folder(t *testing.T, w *testworld.World, name string) {
	t.Helper()
	path := filepath.Join(w.Dir, name)
	must(0, errors.Join(os.RemoveAll(path), os.Mkdir(path, 0o700)))(t)
}

// setSigner replaces the signer of the only authority of the world's set.
func setSigner(t *testing.T, w *testworld.World, signer string) {
	t.Helper()
	content := string(must(os.ReadFile(filepath.Join(w.Dir, "ca/ca.yaml")))(t))
	write(t, w, "ca/ca.yaml", regexp.MustCompile(`(?m)^    signer:.*(\n      .*)*`).ReplaceAllString(content, "    signer: "+signer))
}

// files is every file below dir, with the digest of its content.
func files(t *testing.T, dir string) map[string][sha256.Size]byte {
	t.Helper()
	found := make(map[string][sha256.Size]byte)
	err := filepath.WalkDir(dir, func(name string, entry fs.DirEntry, err error) error {
		if err != nil || !entry.Type().IsRegular() {
			found[name] = [sha256.Size]byte{}
			return err
		}
		content, err := os.ReadFile(name)
		found[name] = sha256.Sum256(content)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return found
}

// TestServeAndConfigCheckAgree: config check refuses exactly what serve refuses to start with, at a
// line of a file, and changes nothing.
func TestServeAndConfigCheckAgree(t *testing.T) {
	t.Parallel()
	place := regexp.MustCompile(`^[^\n]*\.yaml:[0-9]+:[0-9]+: `)
	for name, test := range agreement {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			test.change(t, w)
			before := files(t, w.Dir)
			report, err := app.Check(t.Context(), app.CheckOptions{File: w.ConfigFile})
			if err != nil {
				t.Fatal(err)
			}
			after := files(t, w.Dir)
			for name, content := range after {
				if old, ok := before[name]; !ok || old != content {
					t.Errorf("the check has written %s", name)
				}
			}
			built, err := build(t, w)
			if err == nil {
				if err := built.Close(t.Context()); err != nil {
					t.Error(err)
				}
			}
			found := errors.Join(report.Mistakes...)
			if refused := test.want != ""; (err != nil) != refused || (found != nil) != refused {
				t.Fatalf("serve: %v\nconfig check: %v\nwant refused: %v", err, found, refused)
			}
			for _, mistake := range report.Mistakes {
				if !place.MatchString(mistake.Error()) {
					t.Errorf("%q has no place", mistake)
				}
			}
			if !slices.ContainsFunc(report.Mistakes, func(m error) bool { return strings.Contains(m.Error(), test.want) }) && test.want != "" {
				t.Errorf("config check: %v, want a mistake at %s", found, test.want)
			}
			// Both at the same place and with the same words, except for some errors of the operating
			// system.
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
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			agreement[name].change(t, w)
			report, err := app.Check(t.Context(), app.CheckOptions{File: w.ConfigFile, NoFiles: true})
			if err != nil {
				t.Fatal(err)
			}
			expect(t, "config check --no-files", errors.Join(report.Mistakes...), want)
		})
	}
}

// TestCheckWarnsOfClusterFiles: a server starts without the files of `oidc.kubernetes`. A check
// warns of unusable ones that the configuration names.
func TestCheckWarnsOfClusterFiles(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	before := len(must(app.Check(t.Context(), app.CheckOptions{File: w.ConfigFile}))(t).Warnings)
	write(t, w, "token", "\n")
	edit(t, w, "mayfly.yaml", "oidc: {allow_loopback: true}", "oidc: {allow_loopback: true, kubernetes: {ca_file: missing, token_file: token}}")
	report := must(app.Check(t.Context(), app.CheckOptions{File: w.ConfigFile}))(t)
	if len(report.Mistakes) > 0 || len(report.Warnings) != before+2 {
		t.Errorf("mistakes %v, warnings %v", report.Mistakes, report.Warnings)
	}
}

// TestCheckReportsAllAtOnce: a check continues where a start stops.
func TestCheckReportsAllAtOnce(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	for _, name := range []string{"key algorithm", "an unknown type", "no key", "no log's key", "no TLS pair"} {
		agreement[name].change(t, w)
	}
	report := must(app.Check(t.Context(), app.CheckOptions{File: w.ConfigFile}))(t)
	if len(report.Mistakes) != 5 {
		t.Errorf("%d mistakes, want 5: %v", len(report.Mistakes), errors.Join(report.Mistakes...))
	}
}

// TestCheckReportsALogOnce removes the key of an embedded log, which the trust documents read too.
func TestCheckReportsALogOnce(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	withLog(t, w)
	remove(t, w.Dir, "log.key")
	report := must(app.Check(t.Context(), app.CheckOptions{File: w.ConfigFile}))(t)
	if len(report.Mistakes) != 1 {
		t.Errorf("%d mistakes, want 1: %v", len(report.Mistakes), errors.Join(report.Mistakes...))
	}
}

// TestCheckBesideAServer checks an embedded log that a server has open. It warns of a log that
// would take no entry.
func TestCheckBesideAServer(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	withLog(t, w)
	serve(t, w)
	check := func() *app.CheckReport {
		return must(app.Check(t.Context(), app.CheckOptions{File: w.ConfigFile}))(t)
	}
	if report := check(); len(report.Mistakes) > 0 {
		t.Errorf("beside a server: %v", errors.Join(report.Mistakes...))
	}
	before := len(check().Warnings)
	remove(t, w.Dir, "guard/2026.json")
	report := check()
	if len(report.Mistakes) > 0 || len(report.Warnings) != before+1 {
		t.Errorf("without a guard: mistakes %v, warnings %v", report.Mistakes, report.Warnings)
	}
}
