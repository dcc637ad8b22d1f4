// SPDX-License-Identifier: Apache-2.0

package app_test

import (
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/mayfly-ca/mayfly/app"
	"github.com/mayfly-ca/mayfly/ctlog/embedded"
	"github.com/mayfly-ca/mayfly/test/testlog"
)

// only serves one path of a log: the parts of a static-ct-api log have different URLs.
func only(path string, log http.Handler) http.Handler {
	mux := http.NewServeMux()
	mux.Handle(path, log)
	return mux
}

// TestCheckOnlineAsksLogs: each log must answer with a tree head of the configured key. Any other
// answer is a mistake at the entry's line.
func TestCheckOnlineAsksLogs(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	dir := t.TempDir()
	cfg := embedded.Config{Name: "a", Dir: filepath.Join(dir, "log"), Guard: filepath.Join(dir, "guard.json"), Key: filepath.Join(dir, "log.key"), Origin: "log.example/a"}
	created := must(embedded.Init(t.Context(), cfg))(t)
	static := must(embedded.Open(t.Context(), cfg))(t)
	t.Cleanup(func() { _ = static.Shutdown(t.Context()) })
	other := must(testlog.New(testlog.Config{}))(t)
	failing := must(testlog.New(testlog.Config{}))(t)
	failing.Fail(testlog.Down(http.StatusInternalServerError))
	written("static.pub", string(created.PublicKey))(t, w)
	written("other.pub", string(other.PublicKeyPEM()))(t, w)
	written("broken.pub", "-----BEGIN")(t, w)
	serveLog := func(h http.Handler) string {
		server := httptest.NewServer(h)
		t.Cleanup(server.Close)
		return server.URL
	}
	original := string(must(os.ReadFile(w.ConfigFile))(t))
	line := "    - {url: \"" + w.LogURL + "\", public_key: log.pub}"
	if !strings.Contains(original, line) {
		t.Fatalf("no log in\n%s", original)
	}
	for _, test := range []struct {
		name, url, key, more string
		mistake              string // the key with the value at which it is reported
		warning              string
		asked                int
	}{
		{"its key", w.LogURL, "log.pub", "", "", "", 1},
		{"another key", w.LogURL, "other.pub", "", "public_key", "", 1},
		{"a broken key", w.LogURL, "broken.pub", "", "public_key", "", 1},
		{"a log that fails", serveLog(failing), "log.pub", "", "url", "", 1},
		{"no log", serveLog(http.NotFoundHandler()), "log.pub", "", "url", "", 1},
		{"no answer", "http://127.0.0.1:1", "log.pub", "", "url", "", 1},
		{"another answer", serveLog(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {})), "log.pub", "", "url", "", 1},
		{"a checkpoint", serveLog(only("/checkpoint", static.Handler())), "static.pub", "", "", "", 1},
		{"a checkpoint of another key", serveLog(only("/checkpoint", static.Handler())), "other.pub", "", "public_key", "", 1},
		{"a submission prefix", serveLog(only("/ct/v1/get-roots", other)), "other.pub", "", "", "its key was not verified", 1},
		{"a log that is retired", "http://127.0.0.1:1", "log.pub", ", retire_at: 2020-01-01T00:00:00Z", "", "", 0},
	} {
		entry := "    - {url: \"" + test.url + "\", public_key: " + test.key + test.more + "}"
		written("mayfly.yaml", strings.Replace(original, line, entry, 1))(t, w)
		report := check(t, w, func(o *app.CheckOptions) { o.Online = true })
		want := ""
		if test.mistake != "" {
			before, _, _ := strings.Cut(original, line)
			want = fmt.Sprintf("%s:%d:%d: ", w.ConfigFile, strings.Count(before, "\n")+1, strings.Index(entry, test.mistake+": ")+len(test.mistake)+3)
		}
		if got := fmt.Sprint(errors.Join(report.Mistakes...)); !strings.HasPrefix(got, want) || want == "" && len(report.Mistakes) > 0 {
			t.Errorf("%s: the mistakes are\n%s\nwant %q", test.name, got, want)
		}
		if got := fmt.Sprint(errors.Join(report.Warnings...)); !strings.Contains(got, test.warning) || report.Logs != test.asked {
			t.Errorf("%s: %d logs were asked, and the warnings are\n%s\nwant %q", test.name, report.Logs, got, test.warning)
		}
	}
}
