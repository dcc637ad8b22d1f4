// SPDX-License-Identifier: Apache-2.0

package embedded

import (
	"bytes"
	"context"
	"crypto/x509"
	"encoding/binary"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/certificate-transparency-go/client"
	"github.com/google/certificate-transparency-go/jsonclient"
	tiles "github.com/transparency-dev/tessera/client"
	"golang.org/x/sync/errgroup"

	"github.com/mayfly-ca/mayfly/certs"
	"github.com/mayfly-ca/mayfly/ctlog"
	"github.com/mayfly-ca/mayfly/test/testlog"
)

const (
	testToken             = "a token for submitting"
	minCheckpointInterval = 100 * time.Millisecond // Tessera's
	maxCheckpointInterval = 10 * time.Second
)

// authority creates the chains that a log receives.
type authority struct{ *testlog.Authority }

func newAuthority(t testing.TB) *authority {
	t.Helper()
	return &authority{testlog.NewAuthority(t, time.Now)}
}

func (a *authority) roots() []*x509.Certificate { return []*x509.Certificate{a.Root} }

func (a *authority) submission(t testing.TB) ctlog.Submission {
	t.Helper()
	return a.Draft(t).Submission
}

// numbered returns a function that creates submissions for user-0000007@example.com and so on. Their
// certificates differ in the name and the serial number only, so that their signatures are wrong.
func (a *authority) numbered(t testing.TB) func(number int) ctlog.Submission {
	t.Helper()
	template := a.DraftFor(t, certs.SAN{Kind: certs.SANEmail, Value: "user-0000000@example.com"}, "https://issuer.example").Submission
	c, err := x509.ParseCertificate(template.Chain[0])
	if err != nil {
		t.Fatal(err)
	}
	serial := c.SerialNumber.Bytes()
	return func(number int) ctlog.Submission {
		sub, name := template, fmt.Appendf(nil, "user-%07d", number)
		other := binary.BigEndian.AppendUint32(slices.Clone(serial[:len(serial)-4]), uint32(number))
		change := func(der []byte) []byte {
			return bytes.Replace(bytes.Replace(der, []byte("user-0000000"), name, 1), serial, other, 1)
		}
		sub.Chain = slices.Clone(sub.Chain)
		sub.Chain[0], sub.TBS = change(sub.Chain[0]), change(sub.TBS)
		return sub
	}
}

// newConfig creates a log in a directory of the test and returns its configuration.
func newConfig(t testing.TB) Config {
	t.Helper()
	return newConfigIn(t, t.TempDir())
}

func newConfigIn(t testing.TB, base string) Config {
	t.Helper()
	cfg := configIn(base)
	if _, err := Init(t.Context(), cfg); err != nil {
		t.Fatal(err)
	}
	return cfg
}

// configIn is the configuration of a log in base.
func configIn(base string) Config {
	return Config{
		Name: "2026", Origin: testOrigin,
		Dir: filepath.Join(base, "log"), Guard: filepath.Join(base, "guard", "2026.json"), Key: filepath.Join(base, "2026.key"),
		CheckpointInterval: minCheckpointInterval, SubmitToken: []byte(testToken),
	}
}

// open opens a log until the test ends; by then, the log must not have refused to sign.
func open(t testing.TB, cfg Config) *Log {
	t.Helper()
	l := openSpoilt(t, cfg)
	t.Cleanup(func() {
		if refusal := l.refusal.Load(); refusal != nil {
			t.Error(refusal)
		}
	})
	return l
}

// openSpoilt opens a log that may refuse to sign.
func openSpoilt(t testing.TB, cfg Config) *Log {
	t.Helper()
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.NewTextHandler(testWriter{t}, nil))
	}
	l, err := Open(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Shutdown(context.Background()) })
	return l
}

type testWriter struct{ testing.TB }

func (w testWriter) Write(b []byte) (int, error) {
	w.Log(string(b[:len(b)-1]))
	return len(b), nil
}

// shutdown publishes a checkpoint that covers everything.
func shutdown(t testing.TB, l *Log) {
	t.Helper()
	if err := l.Shutdown(t.Context()); err != nil {
		t.Fatal(err)
	}
}

// submit stores n entries, all in one batch if possible.
func submit(t testing.TB, l *Log, a *authority, n int) []ctlog.SCT {
	t.Helper()
	submissions := make([]ctlog.Submission, n)
	for i := range submissions {
		submissions[i] = a.submission(t)
	}
	return submitAll(t, l, submissions)
}

func submitAll(t testing.TB, l *Log, submissions []ctlog.Submission) []ctlog.SCT {
	t.Helper()
	scts := make([]ctlog.SCT, len(submissions))
	var group errgroup.Group
	for i := range submissions {
		group.Go(func() (err error) {
			scts[i], err = l.Submit(context.Background(), submissions[i])
			return err
		})
	}
	if err := group.Wait(); err != nil {
		t.Fatal(err)
	}
	return scts
}

// asStatic adds the submit token, which certificate-transparency-go does not support, and reads
// entries at the path of static-ct-api, which Tessera does not support.
type asStatic struct{}

func (asStatic) RoundTrip(r *http.Request) (*http.Response, error) {
	r = r.Clone(r.Context())
	r.Header.Set("Authorization", "Bearer "+testToken)
	r.URL.Path = strings.Replace(r.URL.Path, "/tile/entries/", "/tile/data/", 1)
	return http.DefaultTransport.RoundTrip(r)
}

// tileClient returns Tessera's reader of tiles.
func tileClient(t testing.TB, base string) *tiles.HTTPFetcher {
	t.Helper()
	root, err := url.Parse(base + "/")
	if err != nil {
		t.Fatal(err)
	}
	c, err := tiles.NewHTTPFetcher(root, &http.Client{Transport: asStatic{}})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// serve serves a log's reads, which continue after its Shutdown.
func serve(t testing.TB, l *Log) string {
	t.Helper()
	server := httptest.NewServer(http.StripPrefix("/ctlog/2026", l.Handler()))
	t.Cleanup(server.Close)
	return server.URL + "/ctlog/2026"
}

// ctClient returns the independent client that verifies the log.
func ctClient(t testing.TB, url string, publicKey []byte) *client.LogClient {
	t.Helper()
	c, err := client.New(url, &http.Client{Transport: asStatic{}}, jsonclient.Options{PublicKey: string(publicKey)})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// copyDir copies a log's directory as a backup would.
func copyDir(t testing.TB, from, to string) {
	t.Helper()
	if err := os.CopyFS(to, os.DirFS(from)); err != nil {
		t.Fatal(err)
	}
}

func discard() *slog.Logger { return slog.New(slog.DiscardHandler) }
