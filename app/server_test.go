// SPDX-License-Identifier: Apache-2.0

package app_test

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/mayfly-ca/mayfly/app"
	"github.com/mayfly-ca/mayfly/internal/client"
	"github.com/mayfly-ca/mayfly/oidc/provider"
	"github.com/mayfly-ca/mayfly/server"
	"github.com/mayfly-ca/mayfly/test/testworld"
)

func must[T any](value T, err error) func(testing.TB) T {
	return func(t testing.TB) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return value
	}
}

// step changes the files of a world.
type step func(*testing.T, *testworld.World)

func newWorld(t *testing.T, steps ...step) *testworld.World {
	t.Helper()
	w := must(testworld.New(t.TempDir()))(t)
	t.Cleanup(w.Close)
	for _, change := range steps {
		change(t, w)
	}
	return w
}

// path is the file of w that pattern matches, or, where there is none, the one that it names.
func path(w *testworld.World, pattern string) string {
	file := filepath.Join(w.Dir, pattern)
	if found, err := filepath.Glob(file); err == nil && len(found) > 0 {
		return found[0]
	}
	return file
}

func removed(pattern string) step {
	return func(t *testing.T, w *testworld.World) { must(0, os.RemoveAll(path(w, pattern)))(t) }
}

func written(pattern, content string) step {
	return func(t *testing.T, w *testworld.World) {
		must(0, os.WriteFile(path(w, pattern), []byte(content), 0o600))(t)
	}
}

// rewritten replaces the content of a file by what change makes of it.
func rewritten(pattern string, change func(string) string) step {
	return func(t *testing.T, w *testworld.World) {
		written(pattern, change(string(must(os.ReadFile(path(w, pattern)))(t))))(t, w)
	}
}

// edited replaces old in a file, which must contain it.
func edited(pattern, old, replacement string) step {
	return func(t *testing.T, w *testworld.World) {
		rewritten(pattern, func(text string) string {
			if !strings.Contains(text, old) {
				t.Fatalf("%s does not contain %q", pattern, old)
			}
			return strings.ReplaceAll(text, old, replacement)
		})(t, w)
	}
}

// setting adds lines to mayfly.yaml, at line 9 of it.
func setting(text string) step { return edited("mayfly.yaml", "log: {", text+"\nlog: {") }

// withAudit adds an audit log.
func withAudit(t *testing.T, w *testworld.World) {
	setting("audit: {dir: audit, claims: [groups]}")(t, w)
}

// running is a server on real sockets, and the world with the files that it was built from.
type running struct {
	*testworld.World
	rest, ops string // URLs
	grpc      string // URL; that of rest if they share a port
	log       *buffer
}

type buffer struct {
	mu      sync.Mutex
	content bytes.Buffer
}

func (b *buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.content.Write(p)
}

func (b *buffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.content.String()
}

// start serves w until the test ends.
func start(t *testing.T, w *testworld.World, mounts ...server.Mount) *running {
	t.Helper()
	return startAs(t, w, app.Options{ConfigFile: w.ConfigFile, Mounts: mounts})
}

func startAs(t *testing.T, w *testworld.World, options app.Options) *running {
	t.Helper()
	r := &running{World: w, log: &buffer{}}
	options.LogOutput = r.log
	built := must(app.Build(t.Context(), options.Quick()))(t)
	listeners := must(built.Listen())(t)
	r.rest, r.ops = "http://"+listeners.HTTP.Addr().String(), "http://"+listeners.Ops.Addr().String()
	if r.grpc = r.rest; listeners.GRPC != nil {
		r.grpc = "http://" + listeners.GRPC.Addr().String()
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- built.Run(ctx, listeners) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("serving: %v", err)
		}
	})
	return r
}

// request requests a certificate in the name of a person with these claims.
func (r *running) request(ctx context.Context, claims map[string]any) ([]string, error) {
	all := map[string]any{"aud": "sigstore", "sub": "person-1", "email": "person@example.com", "email_verified": true}
	for name, value := range claims {
		all[name] = value
	}
	token, err := r.Provider.Mint(all)
	if err != nil {
		return nil, err
	}
	return r.use(ctx, token)
}

// use requests a certificate with a token of that person.
func (r *running) use(ctx context.Context, token string) ([]string, error) {
	c, err := client.New(client.Config{URL: r.rest})
	if err != nil {
		return nil, err
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	for tries := 5; ; tries-- {
		began := time.Now()
		certificate, err := c.SigningCertificate(ctx, client.Request{IDToken: token, Signer: key})
		if err == nil {
			return certificate.PEM, nil
		}
		// On a busy machine, the server misses its own deadlines; clients then ask again.
		if time.Since(began) < 4*time.Second || tries == 0 {
			return nil, err
		}
	}
}

// wantReason requests a certificate, and requires a refusal for reason; "" for none.
func wantReason(t *testing.T, r *running, claims map[string]any, reason string) {
	t.Helper()
	_, err := r.request(t.Context(), claims)
	var refused *client.Error
	if reason == "" && err != nil || reason != "" && (!errors.As(err, &refused) || refused.Reason != reason) {
		t.Errorf("%v: %v, want %q", claims, err, reason)
	}
}

// certify requires a certificate that verifies.
func (r *running) certify(t *testing.T) {
	t.Helper()
	chain, err := r.request(t.Context(), nil)
	if err == nil {
		err = r.Verify(chain)
	}
	if err != nil {
		t.Error(err)
	}
}

// ask posts a request without a key, which its token decides, as a proxy does for a client. It
// returns the reason.
func (r *running) ask(t *testing.T, client, token string) (reason string, header http.Header) {
	t.Helper()
	body := fmt.Sprintf(`{"credentials":{"oidcIdentityToken":%q}}`, token)
	request := must(http.NewRequestWithContext(t.Context(), http.MethodPost, r.rest+"/api/v2/signingCert", strings.NewReader(body)))(t)
	request.Header.Set("X-Forwarded-For", client)
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		t.Error(err)
		return "", nil
	}
	defer response.Body.Close()
	var answer struct{ Details []struct{ Reason string } }
	if err := json.NewDecoder(response.Body).Decode(&answer); err != nil {
		t.Error(err)
	}
	for _, detail := range answer.Details {
		reason += detail.Reason
	}
	return reason, response.Header
}

// fetch returns the answer of a URL, with any status.
func fetch(t *testing.T, url string) string {
	t.Helper()
	response := must(http.Get(url))(t)
	defer response.Body.Close()
	return string(must(io.ReadAll(response.Body))(t))
}

// metric returns a sample of /metrics, by its name with labels, or 0.
func (r *running) metric(t *testing.T, name string) float64 {
	t.Helper()
	match := regexp.MustCompile(`(?m)^` + regexp.QuoteMeta(name) + ` (.+)$`).FindStringSubmatch(fetch(t, r.ops+"/metrics"))
	if match == nil {
		return 0
	}
	return must(strconv.ParseFloat(match[1], 64))(t)
}

// await polls until holds returns true.
func await(t *testing.T, what string, holds func() bool) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); !holds(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%s: not in time", what)
		}
	}
}

func (r *running) awaitGeneration(t *testing.T, n int) {
	t.Helper()
	await(t, fmt.Sprintf("generation %d", n), func() bool { return r.metric(t, "mayfly_config_generation") == float64(n) })
}

func mintEmail(t *testing.T, p *provider.Provider) string {
	t.Helper()
	return must(p.Mint(map[string]any{"sub": "person-1", "email": "person@example.com", "email_verified": true}))(t)
}
