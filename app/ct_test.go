// SPDX-License-Identifier: Apache-2.0

package app_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/mayfly-ca/mayfly/app"
	"github.com/mayfly-ca/mayfly/internal/client"
	"github.com/mayfly-ca/mayfly/test/testlog"
	"github.com/mayfly-ca/mayfly/test/testworld"
)

// outage is a server built from files, with two logs before that of its world.
type outage struct {
	t         *testing.T
	world     *testworld.World
	logs      []*testlog.Log // in order of preference, the world's last
	urls      []string
	rest, ops string
}

func newOutage(t *testing.T) *outage {
	world, err := testworld.New(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	o := &outage{t: t, world: world}
	t.Cleanup(world.Close)
	var entries strings.Builder
	for _, name := range []string{"first.pub", "second.pub"} {
		log, err := testlog.New(testlog.Config{Roots: []*x509.Certificate{world.Root}})
		if err != nil {
			t.Fatal(err)
		}
		server := httptest.NewServer(log)
		t.Cleanup(server.Close)
		if err := os.WriteFile(filepath.Join(world.Dir, name), log.PublicKeyPEM(), 0o600); err != nil {
			t.Fatal(err)
		}
		o.logs, o.urls = append(o.logs, log), append(o.urls, server.URL)
		entries.WriteString("    - {url: " + server.URL + ", public_key: " + name + "}\n")
	}
	o.logs, o.urls = append(o.logs, world.Log), append(o.urls, world.LogURL)
	text, err := os.ReadFile(world.ConfigFile)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(world.ConfigFile, []byte(strings.Replace(string(text), "  logs:\n", "  logs:\n"+entries.String(), 1)), 0o600); err != nil {
		t.Fatal(err)
	}
	o.serve()
	return o
}

// serve runs the server until the test ends.
func (o *outage) serve() {
	t := o.t
	running, err := app.Build(t.Context(), app.Options{ConfigFile: o.world.ConfigFile, LogOutput: io.Discard})
	if err != nil {
		t.Fatal(err)
	}
	listeners, err := running.Listen()
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- running.Run(ctx, listeners) }()
	t.Cleanup(func() {
		for _, log := range o.logs {
			log.Fail(nil)
		}
		stop()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	o.rest, o.ops = "http://"+listeners.HTTP.Addr().String(), "http://"+listeners.Ops.Addr().String()
}

func (o *outage) certificate() ([]string, error) {
	o.t.Helper()
	token, err := o.world.Provider.Mint(map[string]any{"aud": "sigstore", "sub": "person-1", "email": "person@example.com", "email_verified": true})
	if err != nil {
		o.t.Fatal(err)
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		o.t.Fatal(err)
	}
	ca, err := client.New(client.Config{URL: o.rest})
	if err != nil {
		o.t.Fatal(err)
	}
	certificate, err := ca.SigningCertificate(o.t.Context(), client.Request{IDToken: token, Signer: key})
	if err != nil {
		return nil, err
	}
	return certificate.PEM, nil
}

func (o *outage) get(url string) string {
	o.t.Helper()
	request, err := http.NewRequestWithContext(o.t.Context(), http.MethodGet, url, nil)
	if err != nil {
		o.t.Fatal(err)
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		o.t.Fatal(err)
	}
	defer func() { _ = response.Body.Close() }()
	body, err := io.ReadAll(response.Body)
	if err != nil || response.StatusCode != http.StatusOK {
		o.t.Fatalf("%s: %s, %v", url, response.Status, err)
	}
	return string(body)
}

// keepAsking requests certificates until metrics and readiness report these states of the logs'
// breakers. A state that changed a moment late shows only after the next request.
func (o *outage) keepAsking(states ...string) {
	o.t.Helper()
	o.wait(func() { _, _ = o.certificate() }, states)
}

// waitFor waits for the same states, and sends no certificate request.
func (o *outage) waitFor(states ...string) {
	o.t.Helper()
	o.wait(func() {}, states)
}

func (o *outage) wait(meanwhile func(), states []string) {
	o.t.Helper()
	deadline := time.After(30 * time.Second)
	for ; ; meanwhile() {
		metrics, detail, problem := o.get(o.ops+"/metrics"), "", ""
		var report struct {
			Checks []struct{ Name, State, Detail, Error string }
		}
		if err := json.Unmarshal([]byte(o.get(o.ops+"/readyz?verbose")), &report); err != nil {
			o.t.Fatal(err)
		}
		for _, check := range report.Checks {
			if check.Name == "certificate-transparency" {
				detail, problem = check.Detail, check.Error
			}
		}
		agreed := true
		for i, state := range states {
			agreed = agreed && strings.Contains(metrics, `mayfly_ct_breaker_state{log="`+o.urls[i]+`",state="`+state+`"} 1`) &&
				strings.Contains(detail, o.urls[i]+": breaker "+state) && (state == "closed" || strings.Contains(problem, o.urls[i]+": "))
		}
		if agreed {
			return
		}
		select {
		case <-deadline:
			lines := regexp.MustCompile(`(?m)^mayfly_ct_breaker.*$`).FindAllString(metrics, -1)
			o.t.Fatalf("want %v; readiness says %q, %q; metrics\n%s", states, detail, problem, strings.Join(lines, "\n"))
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// The operator sees an outage of logs, its clients do not, and the service recovers without the
// operator.
func TestServeThroughAnOutageOfLogs(t *testing.T) {
	t.Parallel()
	o := newOutage(t)
	o.waitFor("closed", "closed", "closed")
	o.logs[0].Fail(testlog.Hang)
	o.logs[1].Fail(testlog.Down(http.StatusInternalServerError))
	for range 6 {
		chain, err := o.certificate()
		if err != nil {
			t.Fatal(err)
		}
		if err := o.world.Verify(chain); err != nil {
			t.Fatal(err)
		}
	}
	o.keepAsking("open", "open", "closed")
	// Details that are not public are on ops alone.
	if public := o.get(o.rest + "/readyz?verbose"); !strings.Contains(public, o.urls[0]+": breaker open") || strings.Contains(public, "500") {
		t.Errorf("on the public listener: %s", public)
	}

	// All three logs are down.
	o.logs[2].Fail(testlog.Hang)
	_, err := o.certificate()
	var refused *client.Error
	if !errors.As(err, &refused) || refused.Reason != "CT_UNAVAILABLE" {
		t.Errorf("with every log out: %v", err)
	}

	for _, log := range o.logs {
		log.Fail(nil)
	}
	o.waitFor("half-open", "half-open", "closed")
	for range 3 {
		if _, err := o.certificate(); err != nil {
			t.Error(err)
		}
	}
	o.keepAsking("closed", "closed", "closed")
}

func TestReadinessSaysThatTransparencyIsDisabled(t *testing.T) {
	t.Parallel()
	world, err := testworld.New(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(world.Close)
	text, err := os.ReadFile(world.ConfigFile)
	if err != nil {
		t.Fatal(err)
	}
	text = regexp.MustCompile(`(?s)ct:\n.*\nlog:`).ReplaceAll(text, []byte("ct: {disabled: true}\nlog:"))
	if err := os.WriteFile(world.ConfigFile, text, 0o600); err != nil {
		t.Fatal(err)
	}
	o := &outage{t: t, world: world}
	o.serve()
	if body := o.get(o.rest + "/readyz?verbose"); !strings.Contains(body, "disabled by configuration") {
		t.Errorf("readiness: %s", body)
	}
}
