// SPDX-License-Identifier: Apache-2.0

package clients

import (
	"fmt"
	"net"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/chromedp/cdproto/input"
	"github.com/chromedp/chromedp"
)

// TestDevPage opens the landing page of a development world in a browser: at a loopback address, and
// by a name for which browsers have no clipboard object.
func TestDevPage(t *testing.T) {
	chromium := findChromium(t)
	mayfly := findMayfly(t)
	t.Run("loopback", func(t *testing.T) {
		devPage(t, chromium, mayfly, startDev(t, &world{tools: toolset{mayfly: mayfly}}), false)
	})
	t.Run("exposed", func(t *testing.T) {
		name := nameOfThisMachine()
		if name == "" {
			t.Skip("the name of this machine does not lead to 127.0.0.1 alone, so no browser uses a world by a name")
		}
		devPage(t, chromium, mayfly, startDev(t, &world{tools: toolset{mayfly: mayfly}}, "--expose", name), true)
	})
}

// nameOfThisMachine returns its name, or "" unless this leads to 127.0.0.1 alone.
func nameOfThisMachine() string {
	name, err := os.Hostname()
	addresses, errLookup := net.LookupHost(name)
	if err != nil || errLookup != nil || !slices.Equal(addresses, []string{"127.0.0.1"}) {
		return ""
	}
	return strings.ToLower(name)
}

// A line of the world's output is copied exactly as it was printed, and a certificate is on the page
// once it was issued.
func devPage(t *testing.T, chromium, mayfly string, d *dev, exposed bool) {
	ctx := startChromium(t, chromium)
	var arrived, warning string
	var lines []string
	err := chromedp.Run(ctx,
		chromedp.Navigate(d.url),
		chromedp.Location(&arrived),
		chromedp.Evaluate(`document.querySelector("#exposed")?.textContent ?? ""`, &warning),
		chromedp.Evaluate(`[...document.querySelectorAll(".command code")].map(code => code.textContent)`, &lines),
	)
	if err != nil || arrived != d.url+"/dev/" || strings.Contains(warning, "exposed to other machines") != exposed {
		t.Fatalf("the browser is at %s, with the warning %q: %v", arrived, warning, err)
	}
	if !slices.Equal(lines, d.lines) || len(lines) < 7 {
		t.Errorf("the page has the lines\n%q, and the terminal\n%q", lines, d.lines)
	}
	for i, line := range lines {
		var pasted, selected string
		button := fmt.Sprintf(`(//div[@class="command"]/button)[%d]`, i+1)
		err := chromedp.Run(ctx,
			chromedp.Evaluate(`document.querySelector("#paste")?.remove(); getSelection().removeAllRanges()`, nil),
			chromedp.Evaluate(fmt.Sprintf(`getSelection().selectAllChildren(document.querySelectorAll(".command code")[%d]), getSelection().toString()`, i), &selected),
			chromedp.Click(button, chromedp.BySearch),
			chromedp.WaitVisible(button+`[text()="Copied"]`, chromedp.BySearch),
			chromedp.Evaluate(`(() => { const area = document.createElement("textarea"); area.id = "paste"; document.body.append(area); area.focus() })()`, nil),
			input.DispatchKeyEvent(input.KeyDown).WithKey("v").WithModifiers(input.ModifierCtrl).WithCommands([]string{"paste"}),
			chromedp.Evaluate(`document.querySelector("#paste").value`, &pasted),
		)
		if err != nil || pasted != line || selected != line {
			t.Fatalf("%q is copied as %q, and selected as %q: %v", line, pasted, selected, err)
		}
	}
	s := newSandbox(t)
	u, err := url.Parse(d.url)
	if err != nil {
		t.Fatal(err)
	}
	s.setenv("NO_PROXY", u.Hostname())
	token := s.write(t, "token", s.mustRun(t, mayfly, "token", "--url", d.url, "--email", you))
	s.mustRun(t, mayfly, "request", "--url", d.url, "--token-file", token, "--key", "key.pem", "--certificate", "chain.pem")
	var before, after string
	err = chromedp.Run(ctx, chromedp.Text("#certificates", &before), chromedp.Reload(), chromedp.Text("#certificates tbody", &after))
	if err != nil || strings.Contains(before, you) || !strings.Contains(after, you) || !strings.Contains(after, d.issuer) {
		t.Errorf("the page had %q, and after a certificate %q: %v", before, after, err)
	}
	if response, err := http.Get(d.url + "/"); err != nil || response.StatusCode != http.StatusNotFound {
		t.Errorf("a program's / is %v, %v", response, err)
	}
}
