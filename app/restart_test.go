// SPDX-License-Identifier: Apache-2.0

package app_test

import (
	"os"
	"strings"
	"testing"
)

// A change of the configuration file is noticed and named, whether a start with it would succeed or
// not. It changes neither readiness nor what the server does.
func TestConfigurationFileChanges(t *testing.T) {
	t.Parallel()
	r := start(t, newWorld(t, edited("mayfly.yaml", "level: error", "level: info")))
	whole := string(must(os.ReadFile(r.ConfigFile))(t))
	written("failing.yaml", string(must(os.ReadFile(path(r.World, "issuers.yaml")))(t))+failing)(t, r.World)
	pending := func(want float64, line string) {
		t.Helper()
		await(t, line, func() bool {
			return r.metric(t, "mayfly_config_restart_pending") == want && strings.Contains(r.log.String(), line)
		})
	}
	const again, fails = "is the one in use again", "a start with it would fail"
	for _, change := range []struct {
		step step
		want []string // in the lines
	}{
		{setting("limits: {in_flight: 64}"), []string{"take effect at a restart", "limits.in_flight: 512 → 64"}},
		{edited("mayfly.yaml", "issuers: issuers.yaml", "issuers: other.yaml"), []string{fails, "issuers.yaml → ", "other.yaml: no such file"}},
		{setting("unknown: 1"), []string{fails, "unknown key"}},
		{removed("mayfly.yaml"), []string{fails, "no such file"}},
		{edited("mayfly.yaml", "    - {url: ", "    - {url: http://127.0.0.1:1, public_key: log.pub}\n    - {url: "), []string{fails, "ct.logs.1.url: none → http", "this is also the key of the log"}},
		{edited("mayfly.yaml", "issuers: issuers.yaml", "issuers: failing.yaml"), []string{fails, "issuers.yaml → ", "the claims get a certificate"}},
	} {
		before := len(r.log.String())
		change.step(t, r.World)
		pending(1, change.want[0])
		await(t, change.want[1], func() bool {
			for _, want := range change.want {
				if !strings.Contains(r.log.String()[before:], want) {
					return false
				}
			}
			return true
		})
		await(t, "readiness after "+change.want[1], func() bool { // a scrape of the metrics may have found the issuer's keys missing
			report := fetch(t, r.ops+"/readyz?verbose")
			return strings.Contains(report, `"status":"SERVING"`) && !strings.Contains(report, `"state":"failed"`)
		})
		r.certify(t)
		written("mayfly.yaml", whole+"# only a comment\n")(t, r.World)
		pending(0, again)
	}
}
