// SPDX-License-Identifier: Apache-2.0

package clients

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"flag"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/chromedp/cdproto/emulation"
	cdplog "github.com/chromedp/cdproto/log"
	"github.com/chromedp/cdproto/runtime"
	"github.com/chromedp/chromedp"
	"github.com/chromedp/chromedp/kb"

	"github.com/mayfly-ca/mayfly/internal/client"
	"github.com/mayfly-ca/mayfly/test/testworld"
)

var update = flag.Bool("update", false, "write the screenshots of docs/img")

// largestImage is the size of a screenshot in the documents.
const largestImage = 200 << 10

// servePage starts a server with an embedded log, two authorities, and an issuer that has no address. It
// issues certificates, refuses some requests, and returns the URL of its ops listener.
func servePage(t *testing.T) string {
	t.Helper()
	mayfly, dir := findMayfly(t), t.TempDir()
	w, err := testworld.New(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(w.Close)
	ports := freePorts(t, 3)
	issuers, err := os.ReadFile(filepath.Join(dir, "issuers.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{
		"issuers.yaml": string(issuers) + "  https://issuer.invalid:\n    issuer-url: https://issuer.invalid\n    client-id: sigstore\n    type: email\n",
		"mayfly.yaml": fmt.Sprintf(`listen: {http: %s, grpc: %s, ops: %s}
issuers: issuers.yaml
oidc: {allow_loopback: true}
ca: {set: ca/ca.yaml}
ct:
  logs:
    - embedded: {name: "2026", dir: log/2026, guard: guard/2026.json, key: log-2026.key, origin: log.example/2026}
log: {format: text, level: error}
`, loopback(ports[0]), loopback(ports[1]), loopback(ports[2])),
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	s, config := newSandbox(t), filepath.Join(dir, "mayfly.yaml")
	s.mustRun(t, mayfly, "ctlog", "init", "--config", config)
	s.mustRun(t, mayfly, "ca", "add", "--config", config, "--root", filepath.Join(dir, "ca", "root"), "--activate-at", time.Now().Add(4000*time.Hour).UTC().Format(time.RFC3339))
	p := start(t, "mayfly", serverEnv(dir), mayfly, "serve", "--config", config)
	p.awaitReady(t, http.DefaultClient, "http://"+loopback(ports[0])+"/readyz")
	issue(t, w, "http://"+loopback(ports[0]))
	return "http://" + loopback(ports[2])
}

// issue gets certificates for three people, and refusals.
func issue(t *testing.T, w *testworld.World, url string) {
	t.Helper()
	ca, err := client.New(client.Config{URL: url})
	if err != nil {
		t.Fatal(err)
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	for i := range 40 {
		person := []string{"alice", "bob", "carol"}[i%3] + "@example.com"
		verified := i%8 != 7
		token, err := w.Provider.Mint(map[string]any{"aud": "sigstore", "sub": person, "email": person, "email_verified": verified})
		if err != nil {
			t.Fatal(err)
		}
		if _, err = ca.SigningCertificate(t.Context(), client.Request{IDToken: token, Signer: key}); (err == nil) != verified {
			t.Fatalf("%s, verified %t: %v", person, verified, err)
		}
	}
}

// complaints are what the browser writes to its console, such as violations of the page's policy.
type complaints struct {
	mu    sync.Mutex
	texts []string
}

func (c *complaints) listen(ctx context.Context) {
	chromedp.ListenTarget(ctx, func(event any) {
		c.mu.Lock()
		defer c.mu.Unlock()
		switch event := event.(type) {
		case *cdplog.EventEntryAdded:
			c.texts = append(c.texts, event.Entry.Text+" "+event.Entry.URL)
		case *runtime.EventConsoleAPICalled:
			c.texts = append(c.texts, "console."+event.Type.String())
		case *runtime.EventExceptionThrown:
			c.texts = append(c.texts, event.ExceptionDetails.Error())
		}
	})
}

// findings returns what is wrong with a page: markup that a screen reader cannot use, and what is wider
// than the window.
const findings = `[
	...(document.documentElement.scrollWidth > innerWidth ? ["the page is wider than the window: " + document.documentElement.scrollWidth] : []),
	...[...document.querySelectorAll("main *")].filter(e => e.getBoundingClientRect().right > innerWidth + 1 && !e.closest(".hidden, thead, svg")).map(e => "too wide: " + e.outerHTML.slice(0, 80)),
	...[...document.querySelectorAll("table")].filter(e => !e.caption?.textContent).map(() => "a table has no caption"),
	...[...document.querySelectorAll("th")].filter(e => !e.scope).map(() => "a th has no scope"),
	...[...document.querySelectorAll("svg")].filter(e => !e.closest("[aria-hidden=true]")).map(() => "an svg is read aloud"),
	...[...document.querySelectorAll("section[aria-labelledby]")].filter(e => !document.getElementById(e.getAttribute("aria-labelledby"))).map(() => "a section has no name"),
	...(document.querySelectorAll("h1").length === 1 && document.querySelectorAll("main, header, footer, nav").length === 4 ? [] : ["a heading or a landmark is missing"]),
]`

// TestOpsPage reads the page in a browser, at the widths of a desk and of a phone, light and dark:
// the overview, a search after issuance, and a certificate.
func TestOpsPage(t *testing.T) {
	chromium, ops := findChromium(t), servePage(t)
	ctx := startChromium(t, chromium)
	var console complaints
	console.listen(ctx)
	for _, scheme := range []string{"light", "dark"} {
		for _, width := range []int64{1280, 360} {
			look := fmt.Sprintf("%d-%s", width, scheme)
			height := map[int64]int64{1280: 1000, 360: 780}[width]
			var title, back, text, found, certificate string
			var wrong [4][]string
			var image [3][]byte
			var focused bool
			err := chromedp.Run(ctx, cdplog.Enable(), chromedp.EmulateViewport(width, height),
				emulation.SetEmulatedMedia().WithFeatures([]*emulation.MediaFeature{{Name: "prefers-color-scheme", Value: scheme}}),
				chromedp.Navigate(ops+"/?refresh=off"), awaitIssuer(),
				chromedp.Title(&title), chromedp.Text("main", &text), chromedp.Evaluate(findings, &wrong[0]), chromedp.CaptureScreenshot(&image[0]),
				chromedp.Evaluate(`getComputedStyle(document.body).backgroundColor`, &back),
				chromedp.KeyEvent(kb.Tab), chromedp.Evaluate(`document.activeElement.matches(".skip") && document.activeElement.getBoundingClientRect().width > 50`, &focused),
				chromedp.Click(`//nav/a[text()="Search"]`, chromedp.BySearch), chromedp.WaitVisible("form"),
				chromedp.SendKeys("input[name=identity]", "alice@*"), chromedp.Click("button"), chromedp.WaitVisible("#found"),
				chromedp.Text("main", &found), chromedp.Evaluate(findings, &wrong[1]), chromedp.CaptureScreenshot(&image[1]),
				chromedp.Click("tbody a"), chromedp.WaitVisible("#extensions"),
				chromedp.Text("main", &certificate), chromedp.Evaluate(findings, &wrong[2]), chromedp.CaptureScreenshot(&image[2]),
				chromedp.Click(`//nav/a[text()="Configuration"]`, chromedp.BySearch), chromedp.WaitVisible(".settings"), chromedp.Evaluate(findings, &wrong[3]),
			)
			if err != nil {
				t.Fatalf("%s: driving Chromium: %v", look, err)
			}
			for _, finding := range slices.Concat(wrong[:]...) {
				t.Errorf("%s: %s", look, finding)
			}
			if !strings.HasPrefix(title, "Serving, with problems") || !strings.Contains(text, "issuer.invalid") || !strings.Contains(text, "EMAIL_UNVERIFIED") || strings.Contains(text, "@") {
				t.Errorf("%s: the overview is %q: %s", look, title, text)
			}
			if light := back == "rgb(245, 246, 248)"; light != (scheme == "light") {
				t.Errorf("%s: the background is %s", look, back)
			}
			if !focused {
				t.Errorf("%s: the first Tab does not show the link to the content", look)
			}
			if !strings.Contains(found, "12 found") || !strings.Contains(found, "covered all 35 entries") || strings.Contains(found, "bob@") {
				t.Errorf("%s: the search found %s", look, found)
			}
			if !strings.Contains(certificate, "alice@example.com") || !strings.Contains(certificate, "IssuerV2") || !strings.Contains(certificate, "in the trust bundle") {
				t.Errorf("%s: the certificate is %s", look, certificate)
			}
			keep(t, look, image)
		}
	}
	console.mu.Lock()
	defer console.mu.Unlock()
	for _, complaint := range console.texts {
		t.Errorf("the browser complains: %s", complaint)
	}
}

// awaitIssuer loads the page until the issuer without an address has failed.
func awaitIssuer() chromedp.Action {
	return chromedp.ActionFunc(func(ctx context.Context) error {
		for {
			var failed bool
			if err := chromedp.Evaluate(`document.querySelector("[aria-labelledby=issuers] .badge.bad") !== null`, &failed).Do(ctx); err != nil || failed {
				return err
			}
			if err := chromedp.Reload().Do(ctx); err != nil {
				return err
			}
		}
	})
}

// keep writes the screenshots that the documents have.
func keep(t *testing.T, look string, image [3][]byte) {
	t.Helper()
	for i, name := range []string{"overview", "search", "certificate"} {
		file := map[string]string{"overview-1280-light": "overview", "certificate-1280-dark": "certificate"}[name+"-"+look]
		if file == "" {
			continue
		}
		if len(image[i]) > largestImage {
			t.Errorf("the image %s has %d bytes", file, len(image[i]))
		}
		if *update {
			if err := os.WriteFile("../../docs/img/page-"+file+".png", image[i], 0o644); err != nil {
				t.Error(err)
			}
		}
	}
}
