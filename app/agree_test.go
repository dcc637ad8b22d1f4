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
	"strconv"
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
	chainFile     = "ca/*-a/chain.pem"
	caKeyFile     = "ca/*-a/key.pem"
	caPassword    = "ca/*-a/pass"
	embeddedKey   = "log.key"
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
	writeTLS(t, w.Dir, 1, time.Hour)
	setting("tls: {certificate: cert.pem, key: key.pem}")(t, w)
}

func nothing(*testing.T, *testworld.World) {}

// verbs are the steps of testdata/agree.txt.
var verbs = map[string]func(args ...string) step{
	"set": func(...string) step { return withSet }, "embedded": func(...string) step { return withEmbedded },
	"tls": func(...string) step { return withTLS }, "compromised": func(...string) step { return compromised },
	"removed": func(a ...string) step { return removed(a[0]) }, "written": func(a ...string) step { return written(a[0], a[1]) },
	"edited": func(a ...string) step { return edited(a[0], a[1], a[2]) }, "setting": func(a ...string) step { return setting(a[0]) },
	"folder": func(a ...string) step {
		return func(t *testing.T, w *testworld.World) {
			file := path(w, a[0])
			must(0, errors.Join(os.RemoveAll(file), os.Mkdir(file, 0o700)))(t)
		}
	},
	"moved": func(a ...string) step {
		return func(t *testing.T, w *testworld.World) { must(0, os.Rename(path(w, a[0]), path(w, a[1])))(t) }
	},
	"link": func(a ...string) step {
		return func(t *testing.T, w *testworld.World) { must(0, os.Symlink(a[0], path(w, a[1])))(t) }
	},
	"logURL": func(a ...string) step {
		return func(t *testing.T, w *testworld.World) { edited("mayfly.yaml", w.LogURL, a[0])(t, w) }
	},
	"embeddedSetting": func(a ...string) step {
		return edited("mayfly.yaml", "origin: log.example/2026", "origin: log.example/2026, "+a[0])
	},
	"remoteSetting": func(a ...string) step {
		return edited("mayfly.yaml", "public_key: log.pub}", "public_key: log.pub, "+a[0]+"}")
	},
	"ofAnother": func(a ...string) step { // files of another world
		return func(t *testing.T, w *testworld.World) {
			other := newWorld(t, map[string]step{"nothing": nothing, "embedded": withEmbedded}[a[0]])
			for _, pattern := range a[1:] {
				written(pattern, string(must(os.ReadFile(path(other, pattern)))(t)))(t, w)
			}
		}
	},
	"upside-down": func(...string) step {
		return rewritten(chainFile, func(text string) string {
			i := strings.LastIndex(text, "-----BEGIN")
			return text[i:] + text[:i]
		})
	},
	"unknown-service": func(...string) step {
		return rewritten("ca/ca.yaml", func(text string) string {
			const signer = "    signer: {kms: {uri: awskms:///arn:aws:kms:eu-west-1:111122223333:key/1234abcd-12ab-34cd-56ef-1234567890ab}}"
			return regexp.MustCompile(`(?m)^    signer:.*(\n      .*)*`).ReplaceAllString(text, signer)
		})
	},
	"both-logs": func(...string) step {
		return func(t *testing.T, w *testworld.World) {
			written("log.pub", string(initLog(t, w)))(t, w)
			edited("mayfly.yaml", remoteEntry(w), remoteEntry(w)+"\n    - "+embeddedLog)(t, w)
		}
	},
}

// variant is a configuration and its files, with the place at which config check reports the mistake;
// "" where a server starts.
type variant struct {
	want  string
	steps []step
}

// variants reads testdata/agree.txt.
func variants(t *testing.T) map[string]variant {
	t.Helper()
	all := map[string]variant{}
	name := ""
	for line := range strings.Lines(string(must(os.ReadFile("testdata/agree.txt"))(t))) {
		line = strings.TrimSuffix(line, "\n")
		rest, isStep := strings.CutPrefix(line, "\t")
		if !isStep {
			if before, want, found := strings.Cut(line, " |"); found {
				name = before
				all[name] = variant{want: strings.TrimSpace(want)}
			}
			continue
		}
		var words []string
		for rest != "" {
			word, more, _ := strings.Cut(rest, " ")
			if quoted, err := strconv.QuotedPrefix(rest); err == nil {
				word, more = must(strconv.Unquote(quoted))(t), strings.TrimPrefix(rest[len(quoted):], " ")
			}
			words, rest = append(words, word), more
		}
		v := all[name]
		v.steps = append(v.steps, verbs[words[0]](words[1:]...))
		all[name] = v
	}
	if len(all) < 75 {
		t.Fatalf("there are %d variants only", len(all))
	}
	return all
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
	for name, test := range variants(t) {
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
	all := variants(t)
	for name, want := range map[string]string{"checkpoint_interval": "mayfly.yaml:8:", "log's window": "mayfly.yaml:8:", "key algorithm": "mayfly.yaml:9:", "an unknown type": "issuers.yaml:5:11: ", "no chain": "", "no ca.yaml": "", "no log": "", "no log's key": "", "no TLS pair": "", "no token": ""} {
		report := check(t, newWorld(t, all[name].steps...), func(o *app.CheckOptions) { o.NoFiles = true })
		expect(t, name, errors.Join(report.Mistakes...), want)
	}
}

// TestCheckReportsAllAtOnce: a check continues where a start stops, and reports a key once that two
// parts read.
func TestCheckReportsAllAtOnce(t *testing.T) {
	t.Parallel()
	w, all := newWorld(t), variants(t)
	for _, name := range []string{"key algorithm", "an unknown type", "no key", "no private log key", "half a TLS pair"} {
		for _, change := range all[name].steps {
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
