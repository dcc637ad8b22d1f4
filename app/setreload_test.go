// SPDX-License-Identifier: Apache-2.0

package app

import (
	"bytes"
	"context"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/mayfly-ca/mayfly/ca/ceremony"
	"github.com/mayfly-ca/mayfly/config"
	"github.com/mayfly-ca/mayfly/test/testlog"
)

// Whatever replaces a set's file, the last good set stays in force until a complete and later one
// exists. The error states its place.
func TestReloadKeepsTheLastGoodSet(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)
	made, err := ceremony.Init(ceremony.InitConfig{Dir: filepath.Join(t.TempDir(), "ca"), Algorithm: "ecdsa-p256", Now: func() time.Time { return now }})
	if err != nil {
		t.Fatal(err)
	}
	read := func(name string) string {
		content, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		return string(content)
	}
	write := func(name, content string) {
		if err := os.WriteFile(name, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	set := strings.Replace(read(made.SetFile), "generation: 1", "generation: 5", 1)
	write(made.SetFile, set)
	var log bytes.Buffer
	registry := prometheus.NewRegistry()
	r, err := newCASet(t.Context(), &config.Server{CA: config.CA{Set: made.SetFile}}, Options{Now: func() time.Time { return now }}, slog.New(slog.NewTextHandler(&log, nil)), registry)
	if err != nil {
		t.Fatal(err)
	}
	first, err := r.current.Load().Active(now)
	if err != nil {
		t.Fatal(err)
	}
	files := map[string]string{}
	for _, name := range []string{made.SetFile, made.ChainFile, made.KeyFile, made.PasswordFile} {
		files[name] = read(name)
	}
	for name, test := range map[string]struct {
		file, content, want string
	}{
		"an older generation":           {made.SetFile, strings.Replace(set, "generation: 5", "generation: 4", 1), "ca.yaml:3:13: generation 4 is older than generation 5"},
		"the same with other content":   {made.SetFile, set + "    retire_at: 2027-01-01T00:00:00Z\n", "ca.yaml:3:13: the content differs from that of generation 5"},
		"one without what is published": {made.SetFile, strings.Replace(strings.Replace(set, "generation: 5", "generation: 6", 1), "publish_at: 2026-11-23T12:00:00Z\n    activate_at: 2026-11-23T12:00:00Z", "publish_at: 2026-11-24T12:00:00Z", 1), "no authority is active"},
		"half a set":                    {made.SetFile, set[:len(set)-60], "ca.yaml:"},
		"an empty file":                 {made.SetFile, "", "the file is empty"},
		"half a chain":                  {made.ChainFile, files[made.ChainFile][:500], "chain.pem"},
		"half a key":                    {made.KeyFile, files[made.KeyFile][:100], "key.pem"},
		"a wrong password":              {made.PasswordFile, "something-else\n", "does not open the key"},
	} {
		write(test.file, test.content)
		err := r.watcher.Reload()
		if err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: got error %v, want one that says %q", name, err, test.want)
		}
		if signs, err := r.current.Load().Active(now); err != nil || signs != first || r.current.Load().Generation() != 5 {
			t.Errorf("%s: something else signs (%v)", name, err)
		}
		if got := values(t, registry, "mayfly_ca_set_reload_failed"); len(got) != 1 || got[0] != 1 {
			t.Errorf("%s: mayfly_ca_set_reload_failed is %v", name, got)
		}
		write(test.file, files[test.file])
	}

	// A new password for the same key is no new content.
	if err := r.reload(t.Context()); err != nil {
		t.Errorf("the set as it was: %v", err)
	}
	write(made.SetFile, strings.Replace(set, "generation: 5", "generation: 6", 1)+"    retire_at: 2027-01-01T00:00:00Z\n")
	err = r.watcher.Reload()
	if err != nil || r.current.Load().Generation() != 6 || values(t, registry, "mayfly_ca_set_reload_failed")[0] != 0 {
		t.Errorf("a later set: %v, generation %d", err, r.current.Load().Generation())
	}
	if !strings.Contains(log.String(), "nothing signs from 2027-01-01") {
		t.Errorf("the new set's warnings are not in the log: %s", log.String())
	}
	got, want := values(t, registry, "mayfly_ca_certificate_seconds_to_expiry"), made.Intermediate.NotAfter.Sub(now).Seconds()
	if len(got) != 2 || !slices.Contains(got, want) {
		t.Errorf("the expiry gauges are %v, want two of which one is %g", got, want)
	}
}

// values are a metric's values, one for each combination of labels.
func values(t *testing.T, registry *prometheus.Registry, name string) (list []float64) {
	t.Helper()
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, family := range families {
		if family.GetName() == name {
			for _, metric := range family.GetMetric() {
				list = append(list, metric.GetGauge().GetValue())
			}
		}
	}
	return list
}

// lineWriter sends each record of a log to the channel.
type lineWriter chan string

func (w lineWriter) Write(p []byte) (int, error) {
	w <- string(p)
	return len(p), nil
}

// A server asks the logs whether they accept the root, and warns where one does not; it logs which
// authority signs.
func TestRunSaysWhoSignsAndAsksTheLogs(t *testing.T) {
	t.Parallel()
	made, err := ceremony.Init(ceremony.InitConfig{Dir: filepath.Join(t.TempDir(), "ca"), Algorithm: "ecdsa-p256"})
	if err != nil {
		t.Fatal(err)
	}
	log, err := testlog.New(testlog.Config{})
	if err != nil {
		t.Fatal(err)
	}
	// An embedded log of another replica returns its roots to clients with its token.
	tokenFile := filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(tokenFile, []byte("submitters-only\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") != "Bearer submitters-only" {
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		log.ServeHTTP(w, r)
	}))
	t.Cleanup(server.Close)
	cfg := &config.Server{CA: config.CA{Set: made.SetFile}, CT: config.CT{Logs: []config.CTLog{{URL: server.URL, TokenFile: tokenFile}}}}
	lines := make(lineWriter, 10)
	logger := slog.New(slog.NewTextHandler(lines, nil))
	r, err := newCASet(t.Context(), cfg, Options{}, logger, prometheus.NewRegistry())
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { defer close(done); r.run(ctx, cfg, logger) }()
	if line := <-lines; !strings.Contains(line, "authority signs") || !strings.Contains(line, made.AuthorityID) {
		t.Errorf("the first record is %s", line)
	}
	if line := <-lines; !strings.Contains(line, "does not accept the root of authority") {
		t.Errorf("the second record is %s", line)
	}
	stop()
	<-done
	log.AddRoot(made.Root)
	if problems := CheckLogRoots(t.Context(), cfg, r.current.Load(), time.Now()); len(problems) > 0 {
		t.Errorf("a log that accepts the root: %v", problems)
	}
	log.Fail(testlog.Down(503))
	if problems := CheckLogRoots(t.Context(), cfg, r.current.Load(), time.Now()); len(problems) != 1 {
		t.Errorf("a log that is down: %v", problems)
	}
}

// A server does not start from a set that it would not reload. The error states the place.
func TestStartFromABadSet(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	write := func(name, content string) string {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		return filepath.Join(dir, name)
	}
	server := write("mayfly.yaml", "issuers: issuers.yaml\nca: {set: ca.yaml}\nct: {disabled: true}\n")
	write("issuers.yaml", "oidc-issuers:\n  https://issuer.example: {issuer-url: https://issuer.example, client-id: sigstore, type: email}\n")
	for name, test := range map[string]struct{ content, want string }{
		"missing": {"", "reading configuration"},
		"wrong":   {"generation: x\nauthorities: []\n", `ca.yaml:1:13: found "x", expected a whole number`},
		"none":    {"generation: 1\nauthorities: []\n", "ca.yaml:2:1: the set has no authority"},
	} {
		if test.content != "" {
			write("ca.yaml", test.content)
		}
		_, err := Build(t.Context(), Options{ConfigFile: server})
		if err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: got error %v, want one that says %q", name, err, test.want)
		}
		_ = os.Remove(filepath.Join(dir, "ca.yaml"))
	}
}
