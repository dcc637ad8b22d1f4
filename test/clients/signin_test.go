// SPDX-License-Identifier: Apache-2.0

package clients

import (
	"bytes"
	"context"
	"io"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/chromedp/chromedp"
)

// A cosign without a token opens the sign-in page for the person. --fulcio-auth-flow only replaces
// the terminal that this test lacks.
func (d *dev) signByHand(t *testing.T, w *world, s *sandbox, signIn func(link string, stdin io.Writer)) {
	t.Helper()
	path, file := s.write(t, "blob", blob), s.write(t, "bundle.json", nil)
	ctx, cancel := context.WithTimeout(t.Context(), commandLimit)
	defer cancel()
	cmd := exec.CommandContext(ctx, w.tools.cosign3, "sign-blob", "-y", "--fulcio-auth-flow", "normal", "--bundle", file, path)
	// The pattern includes the white space behind the link, so that the link is complete.
	said := &said{found: make(chan string, 1), link: regexp.MustCompile(`http://\S+/dev/oidc/auth\?\S+\s`)}
	cmd.Dir, cmd.Env, cmd.Stderr, cmd.Stdout = s.dir, s.env, said, said
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	select {
	case link := <-said.found:
		signIn(link, stdin)
		err = <-ended
	case err = <-ended:
		t.Fatalf("cosign ended before it named a page: %v\n%s", err, said)
	}
	if err != nil {
		t.Fatalf("%v\n%s", err, said)
	}
	s.mustRun(t, w.tools.cosign3, append([]string{"verify-blob", "--bundle", file, path}, d.identityFlags("alice@example.com")...)...)
}

// said collects the output of a command, and finds the first link in it.
type said struct {
	link  *regexp.Regexp
	found chan string

	mu   sync.Mutex
	text bytes.Buffer
	done bool
}

func (s *said) Write(b []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.text.Write(b)
	if match := s.link.Find(s.text.Bytes()); match != nil && !s.done {
		s.done = true
		s.found <- strings.TrimSpace(string(match))
	}
	return len(b), nil
}

func (s *said) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.text.String()
}

// devBrowser makes cosign believe that it has opened a browser, and acts as that browser.
func devBrowser(t *testing.T, w *world, d *dev) {
	chromium := findChromium(t)
	s := d.initialized(t, w)
	s.setenv("PATH", s.dir+":"+os.Getenv("PATH"))
	opener := filepath.Join(s.dir, "xdg-open")
	if err := os.WriteFile(opener, []byte("#!/bin/sh\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	d.signByHand(t, w, s, func(link string, _ io.Writer) {
		var warning, problem, arrived string
		err := chromedp.Run(startChromium(t, chromium),
			chromedp.Navigate(link),
			chromedp.Text(".note", &warning),
			// An invalid address returns with an explanation; the browser's own check is off.
			chromedp.Evaluate(`document.querySelector("form").noValidate = true`, nil),
			chromedp.SendKeys("#email", "alice"),
			chromedp.Click("#sign-in"),
			chromedp.Text("#problem", &problem),
			chromedp.SetValue("#email", "alice@example.com"),
			chromedp.Click("#sign-in"),
			chromedp.WaitNotPresent("#sign-in"),
			chromedp.Location(&arrived),
		)
		if err != nil {
			t.Errorf("driving Chromium: %v", err)
		}
		if !strings.Contains(warning, "no password") || !strings.Contains(problem, `"alice" is no email address`) {
			t.Errorf("the page said %q and %q", warning, problem)
		}
		if !strings.HasPrefix(arrived, "http://localhost:") || !strings.Contains(arrived, "/auth/callback?code=") {
			t.Errorf("the browser ended at %s", arrived)
		}
	})
}

// startChromium returns the context of a browser that runs until the test's end. Its profile is in a
// folder of chromedp's: its processes may still write there for a moment, so that the removal of a
// folder of the test's would fail.
func startChromium(t *testing.T, path string) context.Context {
	t.Helper()
	options := append(chromedp.DefaultExecAllocatorOptions[:], chromedp.ExecPath(path), chromedp.NoSandbox, chromedp.WSURLReadTimeout(commandLimit))
	ctx, cancel := context.WithTimeout(t.Context(), commandLimit)
	t.Cleanup(cancel)
	ctx, cancelAllocator := chromedp.NewExecAllocator(ctx, options...)
	t.Cleanup(cancelAllocator)
	ctx, cancelBrowser := chromedp.NewContext(ctx)
	t.Cleanup(cancelBrowser)
	t.Cleanup(func() { _ = chromedp.Cancel(ctx) }) // closes the browser instead of killing it
	return ctx
}

// findChromium skips the test if there is no Chromium.
func findChromium(t *testing.T) string {
	t.Helper()
	for _, name := range []string{"chromium", "chromium-browser", "google-chrome", "google-chrome-stable"} {
		if path, err := exec.LookPath(name); err == nil {
			return path
		}
	}
	t.Skip("there is no Chromium here, so nobody drives the sign-in page: install the package chromium")
	return ""
}

// devCode is a machine without a browser: cosign prints the link, and asks for the code that the
// page shows.
func devCode(t *testing.T, w *world, d *dev) {
	s := d.initialized(t, w)
	s.setenv("PATH", s.dir) // no program there opens browsers
	d.signByHand(t, w, s, func(link string, stdin io.Writer) {
		u, err := url.Parse(link)
		if err != nil {
			t.Error(err)
			return
		}
		form := u.Query() // the page has each of them in a field
		form.Set("email", "alice@example.com")
		client := &http.Client{Timeout: 30 * time.Second}
		response, err := client.PostForm(u.Scheme+"://"+u.Host+u.Path, form)
		if err != nil {
			t.Error(err)
			return
		}
		defer response.Body.Close()
		page, err := io.ReadAll(response.Body)
		code := regexp.MustCompile(`<code id="code">([A-Z2-7]+)</code>`).FindSubmatch(page)
		if err != nil || code == nil {
			t.Errorf("%s, %v: %s", response.Status, err, page)
			return
		}
		if _, err := stdin.Write(append(code[1], '\n')); err != nil {
			t.Error(err)
		}
	})
}
