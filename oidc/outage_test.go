// SPDX-License-Identifier: Apache-2.0

package oidc

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"slices"
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

// take returns the lines since the last call, except the summaries, of which it returns the number.
func (l *logLines) take() (lines []string, summaries int) {
	synctest.Wait()
	l.mu.Lock()
	defer l.mu.Unlock()
	defer l.buffer.Reset()
	lines = strings.FieldsFunc(l.buffer.String(), func(r rune) bool { return r == '\n' })
	all := len(lines)
	lines = slices.DeleteFunc(lines, func(line string) bool { return strings.HasSuffix(line, "issuers=1 issuer_entries=["+testIssuer+"]") })
	return lines, all - len(lines)
}

// TestOutageIsALineForEachChange: an unreachable issuer causes one line, one more when its keys have
// become too old, and one when it is reachable again; between them one in ten minutes.
func TestOutageIsALineForEachChange(t *testing.T) {
	bubble(t, func(t *testing.T) {
		var log logLines
		w := newWorld(t, Config{Logger: log.logger()}, provider.Config{})
		want := func(state State, least int) {
			t.Helper()
			lines, summaries := log.take()
			if len(lines) != 1 || !strings.Contains(lines[0], "state="+string(state)) || len(lines[0]) > 1000 || summaries < least || summaries > least*6/5 {
				t.Errorf("want one line for %s and %d summaries, not %d: %s", state, least, summaries, strings.Join(lines, "\n"))
			}
		}
		w.serve(testIssuer, nil)
		defer w.run(t)()
		time.Sleep(time.Hour)
		want(StateFailing, 6)
		w.serve(testIssuer, w.provider)
		time.Sleep(time.Hour)
		want(StateOK, 0)
		w.serve(testIssuer, nil)
		time.Sleep(time.Hour)
		want(StateDegraded, 5)
		time.Sleep(defaultKeyLifetime)
		want(StateFailing, 6*24)
	})
}

// TestIssuersOfAPatternFillNoLog: a caller can own many issuers of a pattern, and let them fail and
// recover. Invented issuers cause no line.
func TestIssuersOfAPatternFillNoLog(t *testing.T) {
	bubble(t, func(t *testing.T) {
		var log logLines
		w := newWorld(t, Config{Issuers: issuers("https://*.example"), Logger: log.logger()}, provider.Config{Lifetime: 24 * time.Hour})
		defer w.run(t)()
		const owned = 50
		verifyAll := func(up bool) {
			for i := range owned {
				issuer := fmt.Sprintf("https://owned-%d.example", i)
				if w.serve(issuer, nil); up {
					w.serve(issuer, mimic(issuer, w.provider))
				}
				_ = w.verifyFrom(t, clientNumber(i), w.tokenOf(t, issuer))
			}
		}
		for range 8 {
			verifyAll(true)
			time.Sleep(defaultKeyRefresh)
			verifyAll(false)
			time.Sleep(time.Minute)
		}
		// Two hours, with maxPatternLines and a summary in each ten minutes at most.
		if lines, _ := log.take(); len(lines) < 20 || len(lines) > 13*(maxPatternLines+1) {
			t.Errorf("%d lines: %s", len(lines), strings.Join(lines[:min(len(lines), 20)], "\n"))
		}
		time.Sleep(2 * linesInterval)
		log.take()
		for i := range 100 {
			_ = w.verifyFrom(t, clientNumber(i), w.madeUp(t, i))
		}
		if lines, _ := log.take(); len(lines) != 0 {
			t.Errorf("made-up issuers: %s", strings.Join(lines, "\n"))
		}
	})
}

// TestErrorsOfIssuersAreKeptShort: an issuer's answer may cause an error of a megabyte, and errors
// about certificates contain the certificates.
func TestErrorsOfIssuersAreKeptShort(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w, _ := wildWorld(t)
		w.serve(testIssuer, http.RedirectHandler(strings.Repeat("ä", 1<<17), http.StatusFound))
		e := w.refuse(t, mint(t, w.provider, nil), refusal.IssuerUnreachable)
		if n, m := len(e.Cause.Error()), len(w.verifier.Status()[0].LastError); n > 2*maxErrorText || m == 0 || m > 2*maxErrorText {
			t.Errorf("the cause has %d bytes, and the error in the status %d", n, m)
		}
	})
	held := &http.MaxBytesError{Limit: 1}
	if errors.Is(brief(held), held) || brief(nil) != nil {
		t.Error("an error is kept with what it holds")
	}
}
