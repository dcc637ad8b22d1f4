// SPDX-License-Identifier: Apache-2.0

package dev

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/theupdateframework/go-tuf/v2/metadata"
	tufconfig "github.com/theupdateframework/go-tuf/v2/metadata/config"
	"github.com/theupdateframework/go-tuf/v2/metadata/updater"

	"github.com/mayfly-ca/mayfly/internal/trustroot"
)

// run runs a world until the returned function is called.
func run(t *testing.T, cfg Config) (w *World, stop func()) {
	t.Helper()
	if cfg.Listen == "" {
		cfg.Listen = "127.0.0.1:0"
	}
	w, err := New(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ready, done := make(chan struct{}), make(chan error, 1)
	go func() { done <- w.Run(ctx, func() { close(ready) }) }()
	stopped := false
	stop = func() {
		if cancel(); !stopped {
			stopped = true
			if err := <-done; err != nil {
				t.Errorf("stopping: %v", err)
			}
		}
	}
	t.Cleanup(stop)
	select {
	case <-ready:
	case err := <-done:
		done <- nil
		t.Fatalf("it ended before it was ready: %v", err)
	}
	return w, stop
}

// get returns the answer of url, and requires a status.
func get(t *testing.T, url string, status int) string {
	t.Helper()
	response, err := http.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err != nil || response.StatusCode != status {
		t.Fatalf("%s: %s, %v: %s", url, response.Status, err, body)
	}
	return string(body)
}

func TestAWorldIsWhole(t *testing.T) {
	t.Parallel()
	w, stop := run(t, Config{})
	dir := w.dir
	for _, path := range []string{
		"/healthz", "/readyz", "/api/v2/trustBundle", "/api/v2/configuration",
		"/dev/oidc/.well-known/openid-configuration", "/dev/oidc/keys", "/dev/token",
		"/dev/rekor/api/v2/checkpoint", "/dev/rekor/healthz", "/dev/tuf/root.json", "/dev/tuf/timestamp.json",
		"/trusted_root.json", "/signing_config.v0.2.json", "/ctlog/dev/checkpoint", "/ctlog/dev/ct/v1/get-sth",
	} {
		if body := get(t, w.URL()+path, http.StatusOK); body == "" {
			t.Errorf("%s is empty", path)
		}
	}
	for _, path := range []string{"/dev/", "/dev/tuf/2.root.json", "/dev/x", "/ctlog.key", "/dev/tuf/../tuf.key"} {
		get(t, w.URL()+path, http.StatusNotFound)
	}
	trusted, err := w.TrustedRoot()
	if err != nil || get(t, w.URL()+"/trusted_root.json", 200) != string(trusted) {
		t.Errorf("the trusted root is not what is served: %v", err)
	}

	request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, w.TokenURL(), nil)
	if err != nil {
		t.Fatal(err)
	}
	request.Host = "evil.example" // the owner of this name may point it to this machine
	response, err := http.DefaultClient.Do(request)
	if err != nil || response.StatusCode != http.StatusForbidden {
		t.Errorf("under another name: %v, %v", response.Status, err)
	}
	_ = response.Body.Close()

	stop()
	if _, err := os.Stat(dir); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("%s is left behind: %v", dir, err)
	}
}

// target downloads a target as a client does that has only the first root.
func target(t *testing.T, w *World, root []byte, name string) []byte {
	t.Helper()
	dir := t.TempDir()
	cfg, err := tufconfig.New(w.TUFMirror(), root)
	if err != nil {
		t.Fatal(err)
	}
	cfg.LocalMetadataDir, cfg.LocalTargetsDir, cfg.RemoteTargetsURL = dir, dir, w.TUFMirror()+"/targets"
	client, err := updater.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	if err := client.Refresh(); err != nil {
		t.Fatal(err)
	}
	info, err := client.GetTargetInfo(name)
	if err != nil {
		t.Fatal(err)
	}
	_, content, err := client.DownloadTarget(info, "", "")
	if err != nil {
		t.Fatal(err)
	}
	return content
}

// With --dir, what clients trusted before is trusted after a restart, also at another port.
func TestADirectoryKeepsTheWorld(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "world")
	var root []byte
	var keys, chains []string
	for n := range 3 {
		w, stop := run(t, Config{Dir: dir})
		chains = append(chains, get(t, w.URL()+"/api/v1/rootCert", http.StatusOK))
		keys = append(keys, get(t, w.IssuerURL()+"/keys", http.StatusOK))
		now, err := w.TUFRoot()
		if err != nil || n > 0 && !bytes.Equal(now, root) {
			t.Fatalf("the root of trust has changed: %v", err)
		}
		root = now
		want, err := w.TrustedRoot()
		if err != nil {
			t.Fatal(err)
		}
		if got := target(t, w, root, trustroot.TrustedRootName); !bytes.Equal(got, want) {
			t.Errorf("the mirror has %s, want %s", got, want)
		}
		config, err := w.SigningConfig()
		if err != nil || !bytes.Equal(target(t, w, root, trustroot.SigningConfigName), config) {
			t.Errorf("the mirror has another signing config: %v", err)
		}
		if _, err := New(t.Context(), Config{Dir: dir, Listen: "127.0.0.1:0"}); err == nil || !strings.Contains(err.Error(), "another mayfly dev uses") {
			t.Errorf("a second world in one directory: %v", err)
		}
		stop()
	}
	if chains[0] != chains[2] || keys[0] != keys[2] {
		t.Error("the CA or the provider's key has changed")
	}
	timestamp, err := metadata.Timestamp().FromFile(filepath.Join(dir, tufFolder, "timestamp.json"))
	if err != nil || timestamp.Signed.Version != 3 {
		t.Errorf("after three starts: %v, %v", timestamp, err)
	}
}

func TestRefusesToStart(t *testing.T) {
	t.Parallel()
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = taken.Close() })
	with := func(names ...string) string {
		dir := t.TempDir()
		for i := 0; i < len(names); i += 2 {
			if err := os.WriteFile(filepath.Join(dir, names[i]), []byte(names[i+1]), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		return dir
	}
	file := filepath.Join(with("file", ""), "file")
	for name, test := range map[string]struct {
		cfg  Config
		want string
	}{
		"a port that is taken":     {Config{Listen: taken.Addr().String()}, "choose another port with --listen"},
		"every interface":          {Config{Listen: "0.0.0.0:0"}, "use a loopback address"},
		"every interface, short":   {Config{Listen: ":0"}, "use a loopback address"},
		"another machine's":        {Config{Listen: "192.0.2.1:0"}, "use a loopback address"},
		"a name like loopback":     {Config{Listen: "localhost.example:0"}, "use a loopback address"},
		"no port":                  {Config{Listen: "127.0.0.1"}, "it looks like 127.0.0.1:5555"},
		"a level that is none":     {Config{LogLevel: "loud"}, "one of debug"},
		"a lifetime too long":      {Config{CertificateLifetime: 1 << 62}, "from 1m to 60m"},
		"somebody's files":         {Config{Dir: with("notes.txt", "")}, "holds notes.txt, which may be of a real CA"},
		"a CA's files":             {Config{Dir: with("ca.yaml", "")}, "may be of a real CA"},
		"another version's":        {Config{Dir: with(markerFile, `{"format":2}`)}, "made by another version"},
		"a marker that is none":    {Config{Dir: with(markerFile, "x")}, "may not be a development world"},
		"a marker of no version":   {Config{Dir: with(markerFile, "{}")}, "may not be a development world"},
		"another host's":           {Config{Dir: with(markerFile, `{"format":1,"host":"localhost"}`)}, "--listen localhost:5555"},
		"a file":                   {Config{Dir: file}, "name another with --dir"},
		"a broken key of our own":  {Config{Dir: with(markerFile, `{"format":1,"host":"127.0.0.1"}`, rekorKey, "x")}, "start again"},
		"a broken TUF of our own":  {Config{Dir: withTUF(t)}, "reading the TUF repository"},
		"another key of our own":   {Config{Dir: with(markerFile, `{"format":1,"host":"127.0.0.1"}`, rekorKey, "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n")}, "start again"},
		"a chain that is cut":      {Config{Dir: with(markerFile, `{"format":1,"host":"127.0.0.1"}`, tsaChain, "")}, "no PEM certificate"},
		"a log without its folder": {Config{Dir: with(markerFile, `{"format":1,"host":"127.0.0.1"}`, ctKey, "x")}, "exists already"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if test.cfg.Listen == "" {
				test.cfg.Listen = "127.0.0.1:0"
			}
			w, err := New(t.Context(), test.cfg)
			if err == nil {
				t.Fatal("it starts", w.Close(t.Context()))
			}
			if !strings.Contains(err.Error(), test.want) {
				t.Errorf("%v, want %q", err, test.want)
			}
		})
	}
}

func withTUF(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	if err := errors.Join(writeMarker(dir, "127.0.0.1"), os.Mkdir(filepath.Join(dir, tufFolder), 0o700),
		os.WriteFile(filepath.Join(dir, tufFolder, "timestamp.json"), []byte("{"), 0o600)); err != nil {
		t.Fatal(err)
	}
	return dir
}

func TestClaims(t *testing.T) {
	t.Parallel()
	for query, want := range map[string]map[string]any{
		"":                          {"email": DefaultEmail, "email_verified": true, "sub": DefaultEmail},
		"email=a@example.com":       {"email": "a@example.com", "email_verified": true, "sub": "a@example.com"},
		"sub=x":                     {"sub": "x"},
		"sub=x&email=a@example.com": {"sub": "x", "email": "a@example.com", "email_verified": true},
		"email=a&email_verified=":   {"email": "a", "email_verified": nil, "sub": "a"},
		"sub=1&b=false&exp=5&run=7": {"sub": "1", "b": false, "exp": int64(5), "run": "7"},
		`sub=x&o={"a":1}&l=["b"]`:   {"sub": "x", "o": json.RawMessage(`{"a":1}`), "l": json.RawMessage(`["b"]`)},
		"sub=x&aud=a&aud=b":         {"sub": "x", "aud": []any{"a", "b"}},
	} {
		values, err := url.ParseQuery(query)
		if err != nil {
			t.Fatal(err)
		}
		got, err := claimsOf(values)
		if diff := cmp.Diff(want, got); err != nil || diff != "" {
			t.Errorf("%s: %v %s", query, err, diff)
		}
	}
	for _, query := range []string{"exp=soon", "o={", "l=[1,"} {
		values, _ := url.ParseQuery(query)
		if got, err := claimsOf(values); err == nil {
			t.Errorf("%s became %v", query, got)
		}
	}
}

func TestTokensOverHTTP(t *testing.T) {
	t.Parallel()
	w, _ := run(t, Config{})
	if token := get(t, w.TokenURL()+"?email=a@example.com", http.StatusOK); strings.Count(token, ".") != 2 || strings.ContainsAny(token, " \n") {
		t.Errorf("%q is no bare token", token)
	}
	get(t, w.TokenURL()+"?exp=soon", http.StatusBadRequest)
	response, err := http.Post(w.TokenURL(), "", nil)
	if err != nil || response.StatusCode != http.StatusMethodNotAllowed {
		t.Errorf("POST: %v, %v", response.Status, err)
	}
	_ = response.Body.Close()
}
