// SPDX-License-Identifier: Apache-2.0

package app_test

import (
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/mayfly-ca/mayfly/app"
)

const (
	passing = "    tests: [{claims: {sub: a, email: a@b.example, email_verified: true}, san: a@b.example}]\n"
	failing = "    tests: [{claims: {sub: a, email: a@b.example, email_verified: true}, san: x@b.example}]\n"
)

// TestReloadWithFailingTest: a changed file with a failing test is not used, and is reported as any
// other mistake is; with tests: warn, it is used.
func TestReloadWithFailingTest(t *testing.T) {
	t.Parallel()
	for _, mode := range []string{"enforce", "warn"} {
		t.Run(mode, func(t *testing.T) {
			t.Parallel()
			r := start(t, newWorld(t, edited("mayfly.yaml", "level: error", "level: warn"), setting("tests: "+mode)))
			content := string(must(os.ReadFile(path(r.World, "issuers.yaml")))(t))
			change := func(more string) { written("issuers.yaml", content+more)(t, r.World) }
			change(failing)
			const place, sentence = "issuers.yaml:6:79: ", `the claims get a certificate for \"a@b.example\"; expected is a certificate for \"x@b.example\"`
			if mode == "warn" {
				r.awaitGeneration(t, 2)
			} else {
				await(t, "the failure", func() bool { return r.metric(t, "mayfly_config_stale") == 1 })
				await(t, "readiness", func() bool {
					report := fetch(t, r.ops+"/readyz?verbose")
					return strings.Contains(report, "generation 1") && strings.Contains(report, place)
				})
				if got := r.metric(t, `mayfly_config_reloads_total{result="error"}`); got < 1 {
					t.Errorf("%g failed reloads", got)
				}
			}
			want := map[string]string{"enforce": place + sentence, "warn": sentence + `" file=` + path(r.World, "issuers.yaml") + " line=6 column=79"}[mode]
			if log := r.log.String(); !strings.Contains(log, want) || strings.Contains(log, "level=ERROR") != (mode == "enforce") {
				t.Errorf("the log: %s", log)
			}
			r.certify(t)
			change(passing)
			await(t, "the mended file", func() bool {
				return r.metric(t, "mayfly_config_generation") == map[string]float64{"enforce": 2, "warn": 3}[mode]
			})
			if got := r.metric(t, "mayfly_config_stale"); got != 0 {
				t.Errorf("mayfly_config_stale is %g", got)
			}
		})
	}
}

// TestDisabledIssuer: a reload disables the issuer and enables it again.
func TestDisabledIssuer(t *testing.T) {
	t.Parallel()
	r := start(t, newWorld(t, setting("public_url: https://ca.example")))
	const pattern = "https://*.ci.example"
	content := string(must(os.ReadFile(path(r.World, "issuers.yaml")))(t)) + passing + "%s" +
		"meta-issuers:\n  " + pattern + ":\n    client-id: sigstore\n    type: email\n"
	r.certify(t)
	written("issuers.yaml", fmt.Sprintf(content, "    disabled: true\n"))(t, r.World)
	r.awaitGeneration(t, 2)
	wantReason(t, r, nil, "ISSUER_NOT_CONFIGURED")
	if _, err := r.request(t.Context(), nil); err == nil || !strings.Contains(err.Error(), "has disabled") {
		t.Errorf("refused with %v", err)
	}
	if body := fetch(t, r.rest+"/api/v2/configuration"); strings.Contains(body, r.Provider.IssuerURL()) || !strings.Contains(body, pattern) {
		t.Errorf("GetConfiguration: %s", body)
	}
	if instance := must(app.LoadInstance(app.Options{ConfigFile: r.ConfigFile, Environ: os.Environ()}))(t); len(instance.Providers) > 0 {
		t.Errorf("the signing config has the sign-ins %s", instance.Providers)
	}
	if got := r.metric(t, fmt.Sprintf(`mayfly_oidc_issuer_state{entry=%q,state="disabled"}`, r.Provider.IssuerURL())); got != 1 {
		t.Errorf("the state disabled is %g", got)
	}
	await(t, "readiness", func() bool {
		return strings.Contains(fetch(t, r.ops+"/readyz?verbose"), r.Provider.IssuerURL()+": disabled by the operator")
	})
	if report := check(t, r.World, nil); report.Disabled != 1 || report.Tests != 1 || !strings.HasPrefix(report.Summary(), "2 issuer entries (1 disabled), 1 test, 0 mistakes") {
		t.Errorf("config check: %s", report.Summary())
	}
	written("issuers.yaml", fmt.Sprintf(content, ""))(t, r.World)
	r.awaitGeneration(t, 3)
	r.certify(t)
}

// TestTestsAreBounded: no file costs a start more than its limits.
func TestTestsAreBounded(t *testing.T) {
	t.Parallel()
	for name, row := range map[string]struct {
		test               string
		ran, mistakes      int
		firstThatDidNotRun string
	}{
		"passing": {"{claims: {sub: a}, reason: CLAIM_MISSING}", 2000, 1, ":2007:9: "},
		"failing": {"{claims: {sub: a}, reason: EMAIL_UNVERIFIED}", 100, 101, ":107:9: "},
	} {
		w := newWorld(t)
		edited("issuers.yaml", "type: email\n", "type: email\n    tests:\n"+strings.Repeat("      - "+row.test+"\n", 2010))(t, w)
		report := check(t, w, func(o *app.CheckOptions) { o.NoFiles = true })
		if report.Tests != row.ran || len(report.Mistakes) != row.mistakes {
			t.Errorf("%s: %d tests, %d mistakes", name, report.Tests, len(report.Mistakes))
		}
		if last := report.Mistakes[len(report.Mistakes)-1].Error(); !strings.Contains(last, row.firstThatDidNotRun) || !strings.Contains(last, "were not run") {
			t.Errorf("%s: %s", name, last)
		}
	}
}
