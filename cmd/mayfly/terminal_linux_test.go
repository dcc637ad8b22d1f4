// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// onTerminal runs a command line whose standard output and error are a terminal, and returns what
// that has received.
func onTerminal(t *testing.T, environ []string, args ...string) string {
	t.Helper()
	master, err := os.OpenFile("/dev/ptmx", os.O_RDWR|syscall.O_NOCTTY, 0)
	if err != nil {
		t.Skipf("there are no pseudo-terminals: %v", err)
	}
	defer master.Close()
	number, err := unix.IoctlGetInt(int(master.Fd()), unix.TIOCGPTN)
	if err := errors.Join(err, unix.IoctlSetPointerInt(int(master.Fd()), unix.TIOCSPTLCK, 0)); err != nil {
		t.Fatal(err)
	}
	tty, err := os.OpenFile(fmt.Sprintf("/dev/pts/%d", number), os.O_RDWR|syscall.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	received := make(chan []byte)
	go func() {
		var b bytes.Buffer
		_, _ = io.Copy(&b, master) // ends with EIO, once no process has the terminal
		received <- b.Bytes()
	}()
	c := exec.CommandContext(t.Context(), os.Args[0], args...)
	c.Args[0], c.Env, c.Stdout, c.Stderr = "mayfly", append(os.Environ(), environ...), tty, tty
	_ = c.Run()
	_ = tty.Close()
	return string(<-received)
}

func TestColours(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	issuers, claims, set := filepath.Join(dir, "issuers.yaml"), filepath.Join(dir, "claims.json"), filepath.Join(dir, "ca")
	if err := errors.Join(
		os.WriteFile(issuers, []byte("oidc-issuers:\n  https://a.example: {issuer-url: https://a.example, client-id: sigstore, type: spiffe, spiffe-trust-domain: a.example}\n"), 0o600),
		os.WriteFile(claims, []byte(`{"iss": "https://a.example", "aud": "sigstore", "sub": "spiffe://a.example/\u001b[32mpass"}`), 0o600),
		os.WriteFile(filepath.Join(dir, "wrong.yaml"), []byte("oidc-isuers: {}\n"), 0o600),
	); err != nil {
		t.Fatal(err)
	}
	if code, _, errOut := command(t, "", "ca", "init", "--algorithm", "ecdsa-p256", set); code != 0 {
		t.Fatal(errOut)
	}
	state := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		_, _ = io.WriteString(w, `{"version": 1, "status": "NOT_SERVING", "checks": [{"name": "clock", "state": "failed", "critical": true, "error": "a.example/\u001b[32mok"}],`+
			`"issuers": [{"name": "https://a.example/\u001b[32m", "state": "failing", "last_error": "\u001b[32mok"}]}`)
	}))
	defer state.Close()
	for _, test := range []struct {
		args []string
		want string
	}{
		{[]string{"status", "--url", state.URL}, ": \x1b[31mNOT READY\x1b[0m since"},
		{[]string{"status", "--url", state.URL}, "clock  \x1b[31mfailed\x1b[0m"},
		{[]string{"explain", "--config", issuers, "--claims", claims}, "\x1b[31mFAIL\x1b[0m"},
		{[]string{"explain", "--config", issuers, "--claims", claims}, "\x1b[32mpass\x1b[0m"},
		{[]string{"config", "check", filepath.Join(dir, "wrong.yaml")}, "\x1b[31m" + filepath.Join(dir, "wrong.yaml") + ":1:"},
		{[]string{"ca", "status", "--set", set}, "\x1b[32mactive\x1b[0m for"},
	} {
		got := onTerminal(t, []string{"TERM=xterm", "NO_COLOR="}, test.args...)
		if !strings.Contains(got, test.want) {
			t.Errorf("%q: %q lacks %q", test.args, got, test.want)
		}
		if plain := strings.NewReplacer("\x1b[31m", "", "\x1b[32m", "", "\x1b[0m", "").Replace(got); strings.Contains(plain, "\x1b") || strings.Contains(got, "a.example/\x1b") {
			t.Errorf("%q: text of others is obeyed: %q", test.args, got)
		}
		for _, environ := range [][]string{{"TERM=xterm", "NO_COLOR=1"}, {"TERM=dumb", "NO_COLOR="}} {
			if got := onTerminal(t, environ, test.args...); strings.Contains(got, "\x1b") {
				t.Errorf("%q with %q: %q", test.args, environ, got)
			}
		}
	}
}

func TestProgress(t *testing.T) {
	t.Parallel()
	var shown bytes.Buffer
	now := time.Now()
	p := &progress{to: &shown, what: "checking", now: func() time.Time { return now }, began: now, next: now.Add(time.Second)}
	for done := range uint64(1001) { // ten a second
		p.report(done, 1000)
		now = now.Add(time.Second / 10)
	}
	p.clear()
	lines := strings.Split(shown.String(), "\r")
	if want := "checking: 10 of 1000 (1 %), 10/s, 99 seconds left\x1b[K"; lines[1] != want {
		t.Errorf("%q, want %q", lines[1], want)
	}
	if len(lines) < 300 || len(lines) > 402 || lines[len(lines)-1] != "\x1b[K" {
		t.Errorf("%d lines in 100 seconds; the last is %q", len(lines)-2, lines[len(lines)-1])
	}
	shown.Reset()
	(&progress{what: "checking", now: time.Now}).report(1, 1) // no terminal
	(&progress{to: &shown, began: now, next: now.Add(time.Second)}).clear()
	if shown.Len() > 0 {
		t.Errorf("%q, want nothing", shown.String())
	}
}
