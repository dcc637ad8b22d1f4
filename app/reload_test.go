// SPDX-License-Identifier: Apache-2.0

package app_test

import (
	"bufio"
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/mayfly-ca/mayfly/app"
	"github.com/mayfly-ca/mayfly/internal/client"
	"github.com/mayfly-ca/mayfly/test/testworld"
)

// running is a server on real sockets with the files that it was built from.
type running struct {
	*testworld.World
	rest, ops string
	log       *buffer
}

type buffer struct {
	mu sync.Mutex
	bytes.Buffer
}

func (b *buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.Buffer.Write(p)
}

func (b *buffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.Buffer.String()
}

// start starts the server of a new world. prepare may change the files before.
func start(t *testing.T, prepare func(*testworld.World)) *running {
	t.Helper()
	w, err := testworld.New(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(w.Close)
	replace(t, w.ConfigFile, "level: error", "level: info")
	if prepare != nil {
		prepare(w)
	}
	r := &running{World: w, log: &buffer{}}
	a, err := app.Build(t.Context(), app.Options{ConfigFile: w.ConfigFile, LogOutput: r.log})
	if err != nil {
		t.Fatal(err)
	}
	listeners, err := a.Listen()
	if err != nil {
		t.Fatal(err)
	}
	r.rest, r.ops = "http://"+listeners.HTTP.Addr().String(), "http://"+listeners.Ops.Addr().String()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- a.Run(ctx, listeners) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return r
}

func replace(t *testing.T, file, old, new string) {
	t.Helper()
	content, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Contains(content, []byte(old)) {
		t.Fatalf("%s does not hold %q", file, old)
	}
	if err := os.WriteFile(file, bytes.ReplaceAll(content, []byte(old), []byte(new)), 0o600); err != nil {
		t.Fatal(err)
	}
}

// request requests a certificate in the name of claims, and returns the refusal, if any.
func (r *running) request(ctx context.Context, claims map[string]any) error {
	all := map[string]any{"aud": "sigstore", "sub": "person-1", "email": "person@example.com", "email_verified": true}
	for name, value := range claims {
		all[name] = value
	}
	token, err := r.Provider.Mint(all)
	if err != nil {
		return err
	}
	_, err = r.issue(ctx, token)
	return err
}

func (r *running) issue(ctx context.Context, token string) (*client.Certificate, error) {
	c, err := client.New(client.Config{URL: r.rest})
	if err != nil {
		return nil, err
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	return c.SigningCertificate(ctx, client.Request{IDToken: token, Signer: key})
}

func (r *running) get(t *testing.T, path string) string {
	t.Helper()
	response, err := http.Get(r.ops + path)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	return string(body)
}

// metric returns a sample of /metrics, by its name with labels.
func (r *running) metric(t *testing.T, name string) float64 {
	t.Helper()
	lines := bufio.NewScanner(strings.NewReader(r.get(t, "/metrics")))
	for lines.Scan() {
		if text, ok := strings.CutPrefix(lines.Text(), name+" "); ok {
			value, err := strconv.ParseFloat(text, 64)
			if err != nil {
				t.Fatal(err)
			}
			return value
		}
	}
	return 0
}

// await polls until holds returns true.
func await(t *testing.T, what string, holds func() bool) {
	t.Helper()
	deadline := time.NewTimer(20 * time.Second)
	defer deadline.Stop()
	ticker := time.NewTicker(50 * time.Millisecond)
	defer ticker.Stop()
	for !holds() {
		select {
		case <-ticker.C:
		case <-deadline.C:
			t.Fatalf("%s: not in time", what)
		}
	}
}

func (r *running) awaitGeneration(t *testing.T, n int) {
	t.Helper()
	await(t, fmt.Sprintf("generation %d", n), func() bool { return r.metric(t, "mayfly_config_generation") == float64(n) })
}

// configMap is a directory as Kubernetes mounts a ConfigMap: files are symlinks into ..data, which
// is a symlink that Kubernetes replaces.
type configMap struct {
	dir string
	n   int
}

func (c *configMap) swap(t *testing.T, name, content string) {
	t.Helper()
	c.n++
	version := fmt.Sprintf("..v%d", c.n)
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	must(os.MkdirAll(filepath.Join(c.dir, version), 0o700))
	must(os.WriteFile(filepath.Join(c.dir, version, name), []byte(content), 0o600))
	must(os.Symlink(version, filepath.Join(c.dir, "..data_tmp")))
	must(os.Rename(filepath.Join(c.dir, "..data_tmp"), filepath.Join(c.dir, "..data")))
	if c.n == 1 {
		must(os.Symlink(filepath.Join("..data", name), filepath.Join(c.dir, name)))
	} else {
		must(os.RemoveAll(filepath.Join(c.dir, fmt.Sprintf("..v%d", c.n-1))))
	}
}

// A reload under load loses no request: atomic renames, replacements of `..data`, and broken files
// in between, while clients send requests without a pause.
func TestReloadUnderLoad(t *testing.T) {
	t.Parallel()
	mount := configMap{}
	var content string
	r := start(t, func(w *testworld.World) {
		mount.dir = filepath.Join(w.Dir, "mounted")
		plain, err := os.ReadFile(filepath.Join(w.Dir, "issuers.yaml"))
		if err != nil {
			t.Fatal(err)
		}
		content = string(plain)
		mount.swap(t, "issuers.yaml", content)
		replace(t, w.ConfigFile, "issuers: issuers.yaml", "issuers: mounted/issuers.yaml")
	})
	ctx, stop := context.WithCancel(t.Context())
	var clients sync.WaitGroup
	var issued, lost atomic.Int64
	for range 4 {
		clients.Go(func() {
			for ctx.Err() == nil {
				if err := r.request(t.Context(), nil); err != nil {
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
	for n := 2; n <= 4; n++ { // three replacements in a row
		mount.swap(t, "issuers.yaml", fmt.Sprintf("%s    description: version %d\n", content, n))
		r.awaitGeneration(t, n)
	}
	mount.swap(t, "issuers.yaml", "oidc-issuers: {https://x.example: {tpye: email}}\n")
	await(t, "the failure", func() bool { return r.metric(t, "mayfly_config_stale") == 1 })
	if got := r.get(t, "/readyz?verbose"); !strings.Contains(got, `"status":"SERVING"`) || !strings.Contains(got, "generation 4") || !strings.Contains(got, `did you mean \"type\"`) {
		t.Errorf("readiness with a broken file: %s", got)
	}
	// An ordinary file instead of the mount: missing for a while, then renamed into place.
	file := filepath.Join(mount.dir, "issuers.yaml")
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	await(t, "the missing file", func() bool { return strings.Contains(r.get(t, "/readyz?verbose"), "no such file") })
	for n := 5; n <= 6; n++ {
		if err := os.WriteFile(file+".new", []byte(fmt.Sprintf("%s    description: version %d\n", content, n)), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(file+".new", file); err != nil {
			t.Fatal(err)
		}
		r.awaitGeneration(t, n)
	}
	seen := issued.Load()
	await(t, "certificates of the last generation", func() bool { return issued.Load() > seen+10 })
	stop()
	clients.Wait()
	t.Logf("%d certificates issued, %d requests lost", issued.Load(), lost.Load())
	if got := fetches(); got != before {
		t.Errorf("the reloads fetched keys %v times", got-before)
	}
	for name, want := range map[string]float64{
		`mayfly_config_reloads_total{result="ok"}`:    5,
		`mayfly_config_reloads_total{result="error"}`: 2, // or more: what fails is tried again
		`mayfly_config_stale`:                         0,
	} {
		if got := r.metric(t, name); got != want && (got < want || !strings.Contains(name, "error")) {
			t.Errorf("%s is %v, want %v", name, got, want)
		}
	}
	for _, want := range []string{"config_generation=6", `the last good one stays in use`, "issuers.yaml:1:36: unknown key"} {
		if !strings.Contains(r.log.String(), want) {
			t.Errorf("the log does not hold %q", want)
		}
	}
}

// What a reload changes applies to the next request: another audience, and a policy first in audit
// mode, then in force.
func TestReloadChangesWhatIsDecided(t *testing.T) {
	t.Parallel()
	r := start(t, nil)
	file := filepath.Join(r.Dir, "issuers.yaml")
	content, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	write := func(n int, more string) {
		t.Helper()
		if err := os.WriteFile(file, append(bytes.Clone(content), more...), 0o600); err != nil {
			t.Fatal(err)
		}
		r.awaitGeneration(t, n)
	}
	wantReason := func(claims map[string]any, reason string) {
		t.Helper()
		err := r.request(t.Context(), claims)
		var refused *client.Error
		if reason == "" && err != nil || reason != "" && (!errors.As(err, &refused) || refused.Reason != reason) {
			t.Errorf("%v: %v, want %q", claims, err, reason)
		}
	}
	const rules = "    allow:\n      - {name: employees, when: 'claims.email.endsWith(\"@corp.example\")'}\n"
	stranger, employee := map[string]any{}, map[string]any{"email": "ada@corp.example"}
	wantReason(stranger, "")
	write(2, rules+"    mode: audit\n")
	wantReason(stranger, "")
	wantReason(employee, "")
	for result, want := range map[string]float64{"allowed": 1, "denied": 1} {
		name := fmt.Sprintf(`mayfly_policy_decisions_total{entry=%q,mode="audit",profile="",result=%q}`, r.Provider.IssuerURL(), result)
		if got := r.metric(t, name); got != want {
			t.Errorf("%s is %v, want %v", name, got, want)
		}
	}
	if log := r.log.String(); !strings.Contains(log, "policy.result=denied policy.mode=audit") || !strings.Contains(log, "policy.rule=employees") {
		t.Errorf("the log does not tell the shadow policy's decisions:\n%s", log)
	}
	write(3, rules)
	wantReason(stranger, "POLICY_DENIED")
	wantReason(employee, "")
	wantReason(map[string]any{"aud": "deploy"}, "AUDIENCE_MISMATCH")
	write(4, rules+"    profiles:\n      - {name: deploy, client-id: deploy, type: email}\n")
	wantReason(map[string]any{"aud": "deploy"}, "")
	response, err := http.Get(r.rest + "/api/v2/configuration")
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	if body, err := io.ReadAll(response.Body); err != nil || strings.Count(string(body), r.Provider.IssuerURL()) != 2 || !strings.Contains(string(body), `"deploy"`) {
		t.Errorf("GetConfiguration: %s, %v", body, err)
	}
	wantReason(map[string]any{"aud": []string{"deploy", "sigstore"}}, "AUDIENCE_MISMATCH")
}
