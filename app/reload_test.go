// SPDX-License-Identifier: Apache-2.0

package app_test

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/mayfly-ca/mayfly/internal/client"
	"github.com/mayfly-ca/mayfly/server"
)

// A reload under load loses no request: files that are renamed into place, a broken file and a
// missing one in between, while clients send requests without a pause.
func TestReloadUnderLoad(t *testing.T) {
	t.Parallel()
	r := start(t, newWorld(t, edited("mayfly.yaml", "level: error", "level: info")))
	file := path(r.World, "issuers.yaml")
	content := string(must(os.ReadFile(file))(t))
	put := func(text string) {
		must(0, errors.Join(os.WriteFile(file+".new", []byte(text), 0o600), os.Rename(file+".new", file)))(t)
	}
	version := func(n int) {
		put(fmt.Sprintf("%s    description: version %d\n", content, n))
		r.awaitGeneration(t, n)
	}
	fails := func(why string) {
		await(t, why, func() bool {
			report := fetch(t, r.ops+"/readyz?verbose")
			return strings.Contains(report, `"status":"SERVING"`) && strings.Contains(report, "generation 3") && strings.Contains(report, why) &&
				r.metric(t, "mayfly_config_stale") == 1
		})
	}
	ctx, stop := context.WithCancel(t.Context())
	var clients sync.WaitGroup
	var issued, lost atomic.Int64
	for range 4 {
		clients.Go(func() {
			for ctx.Err() == nil {
				if _, err := r.request(t.Context(), nil); err != nil {
					lost.Add(1)
					t.Error(err)
					return
				}
				issued.Add(1)
			}
		})
	}
	fetches := func() float64 {
		return r.metric(t, fmt.Sprintf(`mayfly_oidc_fetches_total{document="keys",entry=%q,result="ok"}`, r.Provider.IssuerURL()))
	}
	await(t, "the first certificates", func() bool { return issued.Load() > 10 })
	before := fetches()
	version(2)
	version(3)
	put("oidc-issuers: {https://x.example: {tpye: email}}\n")
	fails(`did you mean \"type\"`)
	must(0, os.Remove(file))(t)
	fails("no such file")
	version(4)
	seen := issued.Load()
	await(t, "certificates of the last generation", func() bool { return issued.Load() > seen+10 })
	stop()
	clients.Wait()
	t.Logf("%d certificates issued, %d requests lost", issued.Load(), lost.Load())
	if got := fetches(); got != before {
		t.Errorf("the reloads fetched keys %v times", got-before)
	}
	if ok, failed := r.metric(t, `mayfly_config_reloads_total{result="ok"}`), r.metric(t, `mayfly_config_reloads_total{result="error"}`); ok != 3 || failed < 2 || r.metric(t, "mayfly_config_stale") != 0 {
		t.Errorf("%g reloads, %g failed ones", ok, failed)
	}
	for _, want := range []string{"config_generation=4", "issuers.yaml:1:36: "} {
		if !strings.Contains(r.log.String(), want) {
			t.Errorf("the log lacks %q", want)
		}
	}
}

// What a reload changes applies to the next request: another audience, and a policy first in audit
// mode, then enforced.
func TestReloadChangesWhatIsDecided(t *testing.T) {
	t.Parallel()
	r := start(t, newWorld(t, edited("mayfly.yaml", "level: error", "level: info")))
	content := string(must(os.ReadFile(path(r.World, "issuers.yaml")))(t))
	write := func(n int, more string) {
		t.Helper()
		written("issuers.yaml", content+more)(t, r.World)
		r.awaitGeneration(t, n)
	}
	const rules = "    allow:\n      - {name: employees, when: 'claims.email.endsWith(\"@corp.example\")'}\n"
	stranger, employee := map[string]any{}, map[string]any{"email": "ada@corp.example"}
	wantReason(t, r, stranger, "")
	write(2, rules+"    mode: audit\n")
	wantReason(t, r, stranger, "")
	wantReason(t, r, employee, "")
	for _, result := range []string{"allowed", "denied"} {
		name := fmt.Sprintf(`mayfly_policy_decisions_total{entry=%q,mode="audit",profile="",result=%q}`, r.Provider.IssuerURL(), result)
		if got := r.metric(t, name); got != 1 {
			t.Errorf("%s is %v, want 1", name, got)
		}
	}
	if log := r.log.String(); !strings.Contains(log, "policy.result=denied policy.mode=audit") || !strings.Contains(log, "policy.rule=employees") {
		t.Errorf("the log lacks the decisions in mode audit:\n%s", log)
	}
	write(3, rules)
	wantReason(t, r, stranger, "POLICY_DENIED")
	wantReason(t, r, employee, "")
	wantReason(t, r, map[string]any{"aud": "deploy"}, "AUDIENCE_MISMATCH")
	write(4, rules+"    profiles:\n      - {name: deploy, client-id: deploy, type: email}\n")
	wantReason(t, r, map[string]any{"aud": "deploy"}, "")
	if body := fetch(t, r.rest+"/api/v2/configuration"); strings.Count(body, r.Provider.IssuerURL()) != 2 || !strings.Contains(body, `"deploy"`) {
		t.Errorf("GetConfiguration: %s", body)
	}
	wantReason(t, r, map[string]any{"aud": []string{"deploy", "sigstore"}}, "AUDIENCE_MISMATCH")
}

// REST and gRPC share one port with TLS. The certificate is reloaded, and a broken pair changes
// nothing. The state shows a certificate that expires soon or cannot be renewed; the server stays ready.
func TestTLSOnOnePortAndReload(t *testing.T) {
	t.Parallel()
	w := newWorld(t, edited("mayfly.yaml", "grpc: localhost:0", "grpc: 127.0.0.1:0"), withTLS)
	pool := writeTLS(t, w.Dir, 1, time.Hour)
	r := start(t, w)
	address := strings.TrimPrefix(r.rest, "http://")
	for _, overGRPC := range []bool{false, true} {
		ca := must(client.New(client.Config{URL: "https://" + address, GRPC: overGRPC, RootCAs: pool}))(t)
		if err := w.Verify(must(w.Request(t.Context(), ca, false))(t)); err != nil {
			t.Errorf("gRPC %t: %v", overGRPC, err)
		}
	}
	if _, err := tls.Dial("tcp", address, &tls.Config{RootCAs: pool, MaxVersion: tls.VersionTLS12}); err == nil {
		t.Error("TLS 1.2 is accepted, though the default is 1.3")
	}
	serial := func() int64 { // 0 for a certificate that does not verify
		conn, err := tls.Dial("tcp", address, &tls.Config{RootCAs: pool})
		if err != nil {
			return 0
		}
		defer conn.Close()
		return conn.ConnectionState().PeerCertificates[0].SerialNumber.Int64()
	}
	failed := func() bool {
		s := r.state(t)
		if s.Status != "SERVING" {
			t.Errorf("the server is %s", s.Status)
		}
		return s.Checks[slices.IndexFunc(s.Checks, func(c server.CheckState) bool { return c.Name == "tls-certificate" })].Failed()
	}
	await(t, "a check of the hour that is left", failed)
	pool = writeTLS(t, w.Dir, 2, 90*24*time.Hour)
	await(t, "the renewed certificate", func() bool { return serial() == 2 })
	await(t, "the check", func() bool { return !failed() })
	written("cert.pem", "broken")(t, w)
	await(t, "the failure", func() bool { return r.metric(t, "mayfly_tls_reload_failed") == 1 })
	await(t, "a check of the renewal", failed)
	if got := serial(); got != 2 {
		t.Errorf("certificate %d is served after a broken file", got)
	}
}
