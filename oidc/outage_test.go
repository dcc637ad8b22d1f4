// SPDX-License-Identifier: Apache-2.0

package oidc

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/mayfly-ca/mayfly/internal/refusal"
	"github.com/mayfly-ca/mayfly/oidc/provider"
)

// logLines collects the lines of level Info and above.
type logLines struct {
	mu     sync.Mutex
	buffer bytes.Buffer
}

func (l *logLines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buffer.Write(p)
}

func (l *logLines) logger() *slog.Logger { return slog.New(slog.NewTextHandler(l, nil)) }

// take returns the lines since the last call.
func (l *logLines) take() []string {
	synctest.Wait()
	l.mu.Lock()
	defer l.mu.Unlock()
	lines := strings.Split(strings.TrimSpace(l.buffer.String()), "\n")
	l.buffer.Reset()
	if lines[0] == "" {
		return nil
	}
	return lines
}

// TestOutageIsALineForEachChange: 20 unreachable issuers cause 20 lines, then one line in ten
// minutes, and one line for each that is reachable again.
func TestOutageIsALineForEachChange(t *testing.T) {
	bubble(t, func(t *testing.T) {
		const issuers = 20
		var log logLines
		cfg := Config{Logger: log.logger()}
		for i := range issuers {
			cfg.Issuers = append(cfg.Issuers, staticIssuer(fmt.Sprintf("https://down-%d.example", i)))
		}
		w := newWorld(t, cfg, provider.Config{})
		defer w.run(t)()
		time.Sleep(22 * time.Second)
		if lines := log.take(); len(lines) != issuers {
			t.Errorf("%d lines in 22 s: %s", len(lines), strings.Join(lines, "\n"))
		}
		time.Sleep(time.Hour)
		lines := log.take()
		if len(lines) != 6 || !strings.Contains(lines[0], "issuers=20") || len(lines[0]) > 1000 {
			t.Errorf("%d lines in an hour: %s", len(lines), strings.Join(lines, "\n"))
		}
		for i := range issuers {
			url := cfg.Issuers[i].URL
			w.serve(url, mimic(url, w.provider))
		}
		time.Sleep(time.Minute)
		if lines := log.take(); len(lines) != issuers {
			t.Errorf("%d lines afterwards: %s", len(lines), strings.Join(lines, "\n"))
		}
		time.Sleep(time.Hour)
		if lines := log.take(); len(lines) != 0 {
			t.Errorf("an hour later: %s", strings.Join(lines, "\n"))
		}
	})
}

// TestOddKeySetIsOneLine: a key set causes one line when it loses its last usable key, and not one
// for each fetch.
func TestOddKeySetIsOneLine(t *testing.T) {
	bubble(t, func(t *testing.T) {
		var log logLines
		w := newWorld(t, Config{Logger: log.logger(), Issuers: []Issuer{staticIssuer(testIssuer)}}, provider.Config{})
		mux := http.NewServeMux()
		mux.Handle("/.well-known/", mimic(testIssuer, w.provider))
		mux.Handle("/keys", body(`{"keys":[]}`))
		w.serve(testIssuer, mux)
		defer w.run(t)()
		time.Sleep(3 * time.Hour)
		if lines := log.take(); len(lines) != 1 || len(w.sent()) < 20 {
			t.Errorf("%d lines of %d requests: %s", len(lines), len(w.sent()), strings.Join(lines, "\n"))
		}
	})
}

// TestIssuersOfAPatternFillNoLog: a caller can own many issuers of a pattern, and let them fail and
// recover.
func TestIssuersOfAPatternFillNoLog(t *testing.T) {
	bubble(t, func(t *testing.T) {
		var log logLines
		w := newWorld(t, Config{Issuers: []Issuer{wildcardIssuer("https://*.example")}, Logger: log.logger()},
			provider.Config{Lifetime: 24 * time.Hour})
		defer w.run(t)()
		const issuers = 50
		tokens := make([]string, issuers)
		verifyAll := func(up bool) {
			for i := range tokens {
				issuer := fmt.Sprintf("https://owned-%d.example", i)
				if w.serve(issuer, nil); up {
					w.serve(issuer, mimic(issuer, w.provider))
				}
				if tokens[i] == "" {
					tokens[i] = mint(t, w.provider, map[string]any{"iss": issuer})
				}
				_ = w.verifyFrom(t, clientNumber(i), tokens[i])
			}
		}
		for range 8 {
			verifyAll(true)
			time.Sleep(defaultKeyRefresh)
			verifyAll(false)
			time.Sleep(time.Minute)
		}
		// Two hours, with maxPatternLines and a summary in each ten minutes at most.
		if lines := log.take(); len(lines) < 20 || len(lines) > 13*(maxPatternLines+1) {
			t.Errorf("%d lines: %s", len(lines), strings.Join(lines[:min(len(lines), 20)], "\n"))
		}
		// Invented issuers cause no line.
		time.Sleep(2 * summaryInterval)
		log.take()
		for i := range 100 {
			_ = w.verifyFrom(t, clientNumber(i), w.madeUp(t, i))
		}
		if lines := log.take(); len(lines) != 0 {
			t.Errorf("made-up issuers: %s", strings.Join(lines, "\n"))
		}
	})
}

// TestErrorsOfIssuersAreKeptShort: an issuer's answer may cause an error of a megabyte, and errors
// about certificates contain the certificates.
func TestErrorsOfIssuersAreKeptShort(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := wildWorld(t)
		long := strings.Repeat("ä", 1<<17)
		w.serve(testIssuer, http.HandlerFunc(func(rw http.ResponseWriter, _ *http.Request) {
			rw.Header().Set("Content-Type", long)
			fmt.Fprint(rw, "no JSON")
		}))
		e := wantReason(t, w.verify(t, mint(t, w.provider, nil)), refusal.IssuerUnreachable)
		if n := len(e.Cause.Error()); n > 2*maxErrorText {
			t.Errorf("the cause has %d bytes", n)
		}
		if n := len(w.verifier.Status()[0].LastError); n == 0 || n > 2*maxErrorText {
			t.Errorf("the status has an error of %d bytes", n)
		}
	})
	held := &http.MaxBytesError{Limit: 1}
	if errors.Is(brief(held), held) || brief(nil) != nil {
		t.Error("an error is kept with what it holds")
	}
}
