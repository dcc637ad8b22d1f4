// SPDX-License-Identifier: Apache-2.0

package dev

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	tufconfig "github.com/theupdateframework/go-tuf/v2/metadata/config"
	"github.com/theupdateframework/go-tuf/v2/metadata/updater"

	"github.com/mayfly-ca/mayfly/internal/trustroot"
)

// run runs a world until the returned function is called.
func run(t testing.TB, cfg Config) (w *World, stop func()) {
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
	for path, status := range map[string]int{
		"/healthz": 200, "/readyz": 200, "/api/v2/trustBundle": 200, "/api/v2/configuration": 200, "/signing_config.v0.2.json": 200,
		"/ctlog/dev/checkpoint": 200, "/ctlog/dev/ct/v1/get-sth": 200, "/ctlog.key": 404, "/dev/tuf/../tuf.key": 404,
	} {
		if body := get(t, w.URL()+path, status); body == "" {
			t.Errorf("%s is empty", path)
		}
	}
	trusted, err := w.TrustedRoot()
	if err != nil || get(t, w.URL()+"/trusted_root.json", 200) != string(trusted) {
		t.Errorf("the trusted root is not what is served: %v", err)
	}
	// Each path below /dev/ is guarded, found or not.
	for path, status := range map[string]int{
		"/dev/token": 200, "/dev/token?exp=soon": 400, "/dev/oidc/keys": 200, "/dev/oidc/.well-known/openid-configuration": 200,
		"/dev/oidc/auth": 400, "/dev/oidc/token": 405, "/dev/rekor/api/v2/checkpoint": 200, "/dev/rekor/healthz": 200,
		"/dev/tuf/root.json": 200, "/dev/tuf/timestamp.json": 200, "/dev/tuf/2.root.json": 404,
		"/dev/tsa/api/v1/timestamp": 200, "/dev/": 200, "/dev/nothing": 404, "//dev/token": 200, "/dev//token": 307,
		"/dev/oidc": 307, "/dev/oidc/": 303, "/dev/rekor": 307, "/dev/rekor/": 303, "/dev/tuf": 307, "/dev/tuf/": 200,
	} {
		for _, site := range []string{"", "cross-site"} {
			request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, w.URL()+path, nil)
			if err != nil {
				t.Fatal(err)
			}
			want := status
			if site != "" {
				request.Header.Set("Sec-Fetch-Site", site)
				want = http.StatusForbidden
			}
			response, err := http.DefaultTransport.RoundTrip(request)
			if err != nil {
				t.Fatal(err)
			}
			_ = response.Body.Close()
			if response.StatusCode != want {
				t.Errorf("%s from %q: %s, want %d", path, site, response.Status, want)
			}
			wantGuarded(t, path+" from "+site, response.Header)
		}
	}
	stop()
	if _, err := os.Stat(dir); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("%s is left behind: %v", dir, err)
	}
}

// What a world leaves behind may not write to the log of a test that has ended.
func TestNoLinesAfterTheEnd(t *testing.T) {
	t.Parallel()
	var out bytes.Buffer
	w, stop := run(t, Config{LogOutput: &out, LogLevel: "info"})
	stop()
	before := out.String()
	if n, err := w.output.Write([]byte("late")); n != 4 || err != nil || out.String() != before || !strings.Contains(before, "msg=serving") {
		t.Errorf("%d, %v: %s", n, err, &out)
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
	dir := filepath.Join(t.TempDir(), "world [1]*?") // a pattern in other places
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
	if _, err := os.Stat(filepath.Join(dir, tufFolder, "3.targets.json")); err != nil {
		t.Errorf("after three starts: %v", err)
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
			file := filepath.Join(dir, names[i])
			if err := errors.Join(os.MkdirAll(filepath.Dir(file), 0o700), os.WriteFile(file, []byte(names[i+1]), 0o600)); err != nil {
				t.Fatal(err)
			}
		}
		return dir
	}
	file := filepath.Join(with("file", ""), "file")
	marked := func(host string) string { return fmt.Sprintf(`{"format":1,"host":%q}`, host) }
	linked := with(markerFile, marked("127.0.0.1"))
	if err := os.Symlink(file, filepath.Join(linked, settingsFile)); err != nil {
		t.Fatal(err)
	}
	for name, test := range map[string]struct {
		cfg  Config
		want string
	}{
		"a port that is taken":     {Config{Listen: taken.Addr().String()}, "--listen"},
		"every interface":          {Config{Listen: "0.0.0.0:0"}, "loopback"},
		"every interface, short":   {Config{Listen: ":0"}, "loopback"},
		"another machine's":        {Config{Listen: "192.0.2.1:0"}, "loopback"},
		"a name like loopback":     {Config{Listen: "localhost.example:0"}, "loopback"},
		"no port":                  {Config{Listen: "127.0.0.1"}, "127.0.0.1:5555"},
		"a level that is none":     {Config{LogLevel: "loud"}, "debug"},
		"a lifetime too long":      {Config{CertificateLifetime: 1 << 62}, "60m"},
		"a CA's files":             {Config{Dir: with("ca.yaml", "")}, "may be of a real CA"},
		"another version's":        {Config{Dir: with(markerFile, `{"format":2}`)}, "delete"},
		"a marker that is none":    {Config{Dir: with(markerFile, "x")}, "delete"},
		"a marker of no version":   {Config{Dir: with(markerFile, "{}")}, "delete"},
		"another host's":           {Config{Dir: with(markerFile, marked("localhost"))}, "--listen localhost:5555"},
		"another name's":           {Config{Dir: with(markerFile, marked("mayfly.internal"))}, "--expose mayfly.internal"},
		"every host":               {Config{Listen: "0.0.0.0:0"}, "name with --expose the host"},
		"exposed as a URL":         {Config{Expose: "http://mayfly.internal"}, "without a scheme, port or path"},
		"exposed with a port":      {Config{Expose: "mayfly.internal:5555"}, "without a scheme, port or path"},
		"exposed as a flag":        {Config{Expose: "-x"}, "name or IP address of one machine"},
		"exposed as all names":     {Config{Expose: "*"}, "name or IP address of one machine"},
		"exposed as a command":     {Config{Expose: "$(id)"}, "name or IP address of one machine"},
		"exposed as every address": {Config{Expose: "::"}, "name or IP address of one machine"},
		"exposed as another zone":  {Config{Expose: "fe80::1%eth0"}, "name or IP address of one machine"},
		"exposed by no name":       {Config{Expose: strings.Repeat("a", 300)}, "make it lead to this machine"},
		"a file":                   {Config{Dir: file}, "--dir"},
		"a link":                   {Config{Dir: linked}, settingsFile},
		"a broken key of our own":  {Config{Dir: with(markerFile, marked("127.0.0.1"), rekorKey, "x")}, "start again"},
		"a broken TUF of our own":  {Config{Dir: with(markerFile, marked("127.0.0.1"), tufFolder+"/timestamp.json", "{")}, "TUF"},
		"another key of our own":   {Config{Dir: with(markerFile, marked("127.0.0.1"), rekorKey, "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n")}, "start again"},
		"a chain that is cut":      {Config{Dir: with(markerFile, marked("127.0.0.1"), tsaChain, "")}, tsaChain},
		"a log without its folder": {Config{Dir: with(markerFile, marked("127.0.0.1"), ctKey, "x")}, "exists already"},
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

func TestClaims(t *testing.T) {
	t.Parallel()
	for query, want := range map[string]map[string]any{
		"":                          {"email": DefaultEmail, "email_verified": true, "sub": DefaultEmail},
		"email=a@example.com":       {"email": "a@example.com", "email_verified": true, "sub": "a@example.com"},
		"sub=x":                     {"sub": "x"},
		"sub=x&email=a@example.com": {"sub": "x", "email": "a@example.com", "email_verified": true},
		"email=a&email_verified=":   {"email": "a", "email_verified": nil, "sub": "a"},
		"sub=1&b=false&exp=5&run=7": {"sub": "1", "b": json.RawMessage("false"), "exp": json.RawMessage("5"), "run": "7"},
		`sub=x&o={"a":1}&l=["b"]`:   {"sub": "x", "o": json.RawMessage(`{"a":1}`), "l": json.RawMessage(`["b"]`)},
		"sub=x&aud=a&aud=b":         {"sub": "x", "aud": []any{"a", "b"}},
	} {
		values, err := url.ParseQuery(query)
		if err != nil {
			t.Fatal(err)
		}
		got, err := claimsOf(values)
		if diff := cmp.Diff(want, complete(got)); err != nil || diff != "" {
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

// BenchmarkReady is the time from the start to a world that answers, including fresh keys, and the
// longest of all.
func BenchmarkReady(b *testing.B) {
	var slowest time.Duration
	for b.Loop() {
		begin := time.Now()
		_, stop := run(b, Config{})
		b.StopTimer()
		slowest = max(slowest, time.Since(begin))
		stop()
		b.StartTimer()
	}
	b.ReportMetric(float64(slowest.Milliseconds()), "slowest-ms")
}
