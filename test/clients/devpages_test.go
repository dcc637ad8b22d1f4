// SPDX-License-Identifier: Apache-2.0

package clients

import (
	"context"
	_ "embed"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"

	"github.com/chromedp/cdproto/runtime"
	"github.com/chromedp/chromedp"
)

// hostile is what a web page can try with a URL: attack resolves to the result of each attempt,
// "nothing" if it failed. A JWT is a JavaScript expression: a page that knows the constant first
// part declares a variable of its name and can observe the access to the other two parts.
//
//go:embed testdata/hostile.html
var hostile string

// TestDevKeepsPagesOut opens pages of other origins in a browser. They get no token of a
// development world, and a person can still sign in from one.
func TestDevKeepsPagesOut(t *testing.T) {
	chromium := findChromium(t)
	d := startDev(t, &world{tools: toolset{mayfly: findMayfly(t)}})
	header, _, _ := strings.Cut(string(fetch(t, http.DefaultClient, d.url+"/dev/token")), ".")
	page := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/html")
		_, _ = io.WriteString(w, hostile)
	}))
	t.Cleanup(page.Close)
	// A server without a guard would reveal the token: the page's attempts work.
	open := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/plain; charset=utf-8")
		_, _ = io.WriteString(w, header+".payload.signature")
	}))
	t.Cleanup(open.Close)
	ctx := startChromium(t, chromium)
	try := func(from, target string) map[string]string {
		var got map[string]string
		err := chromedp.Run(ctx, chromedp.Navigate(from), chromedp.Evaluate(fmt.Sprintf("attack(%q, %q)", target, header), &got,
			func(p *runtime.EvaluateParams) *runtime.EvaluateParams { return p.WithAwaitPromise(true) }))
		if err != nil {
			t.Fatalf("driving Chromium: %v", err)
		}
		return got
	}
	t.Run("exposed", func(t *testing.T) {
		name := nameOfThisMachine() // to which browsers do not report where a request comes from
		if name == "" {
			t.Skip("the name of this machine does not lead to 127.0.0.1 alone, so no browser uses a world by a name")
		}
		exposed := startDev(t, &world{tools: toolset{mayfly: findMayfly(t)}}, "--expose", name)
		for _, path := range []string{"/dev/token", "/dev/oidc/token", "/dev/oidc/keys", "/dev/"} {
			got := try(page.URL, exposed.url+path)
			maps.DeleteFunc(got, func(_, result string) bool { return result == "nothing" })
			if len(got) > 0 {
				t.Errorf("a page at %s gets of %s: %q", page.URL, exposed.url+path, got)
			}
		}
	})
	anotherSite := strings.Replace(page.URL, "127.0.0.1", "localhost", 1)
	if got := try(page.URL, open.URL); got["script"] != "runs: payload,signature" || got["fetch no-cors"] != "opaque" {
		t.Errorf("the page cannot read an unguarded token, so this test shows nothing: %q", got)
	}
	for _, from := range []string{page.URL, anotherSite} {
		for _, path := range []string{"/dev/token", "/dev/oidc/auth?" + d.authorization(page.URL).Encode(), "/dev/oidc/token", "/dev/oidc/keys", "/dev/tuf/root.json"} {
			got := try(from, d.url+path)
			maps.DeleteFunc(got, func(_, result string) bool { return result == "nothing" })
			if len(got) > 0 {
				t.Errorf("a page at %s gets of %s: %q", from, path, got)
			}
		}
		t.Run("sign-in from "+from, func(t *testing.T) { d.signInFrom(t, ctx, from, page.URL) })
		text := d.follow(t, ctx, from, d.url+"/dev/token")
		if strings.Contains(text, header) || !strings.Contains(text, "no page of another origin") {
			t.Errorf("a link from %s to the token shows %q", from, text)
		}
	}
}

// authorization is a client's request that returns to the given page.
func (d *dev) authorization(page string) url.Values {
	return url.Values{
		"response_type": {"code"}, "client_id": {"sigstore"}, "redirect_uri": {page + "/auth/callback"}, "scope": {"openid email"},
		"code_challenge": {"g0tuZ6q412zO9IRkeAUs8HN6MQeXPsGce37J3Rsc8wQ"}, "code_challenge_method": {"S256"},
	}
}

// challengeVerifier is the PKCE verifier: the challenge is its SHA-256 hash.
const challengeVerifier = "0123456789abcdefghijklmnopqrstuvwxyzABCDEFG"

// follow clicks a link in the page at from, and returns the text of the page that it opens.
func (d *dev) follow(t *testing.T, ctx context.Context, from, link string) (text string) {
	t.Helper()
	err := chromedp.Run(ctx, chromedp.Navigate(from),
		chromedp.Evaluate(fmt.Sprintf(`document.getElementById("go").href = %q`, link), nil),
		chromedp.Click("#go"), chromedp.WaitNotPresent("#go"), chromedp.Text("body", &text))
	if err != nil {
		t.Fatalf("driving Chromium: %v", err)
	}
	return text
}

// signInFrom signs in after a link in a page has led to the sign-in page, and redeems the code.
func (d *dev) signInFrom(t *testing.T, ctx context.Context, from, callback string) {
	request := d.authorization(callback)
	d.follow(t, ctx, from, d.url+"/dev/oidc/auth?"+request.Encode())
	var arrived string
	err := chromedp.Run(ctx, chromedp.SendKeys("#email", you), chromedp.Click("#sign-in"),
		chromedp.WaitNotPresent("#sign-in"), chromedp.Location(&arrived))
	u, errURL := url.Parse(arrived)
	if err != nil || errURL != nil || u.Query().Get("code") == "" {
		t.Fatalf("the browser is at %q: %v", arrived, err)
	}
	response, err := http.PostForm(d.issuer+"/token", url.Values{
		"grant_type": {"authorization_code"}, "client_id": {"sigstore"}, "code": {u.Query().Get("code")},
		"redirect_uri": {request.Get("redirect_uri")}, "code_verifier": {challengeVerifier},
	})
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	var answer struct {
		Token string `json:"id_token"`
	}
	if err := json.NewDecoder(response.Body).Decode(&answer); err != nil || strings.Count(answer.Token, ".") != 2 {
		t.Errorf("the code yields no token: %s, %v", response.Status, err)
	}
}
