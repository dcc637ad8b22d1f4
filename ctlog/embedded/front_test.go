// SPDX-License-Identifier: Apache-2.0

package embedded

import (
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net/http"
	"os"
	"slices"
	"strings"
	"testing"

	ct "github.com/google/certificate-transparency-go"
	"github.com/google/go-cmp/cmp"

	"github.com/mayfly-ca/mayfly/ctlog"
)

func sum(b []byte) []byte {
	s := sha256.Sum256(b)
	return s[:]
}

func chainJSON(t testing.TB, chain [][]byte) []byte {
	t.Helper()
	body, err := json.Marshal(ct.AddChainRequest{Chain: chain})
	if err != nil {
		t.Fatal(err)
	}
	return body
}

func post(t testing.TB, url, token string, body []byte) (int, http.Header, string) {
	t.Helper()
	return do(t, http.MethodPost, url, body, map[string]string{"Authorization": "Bearer " + token})
}

func do(t testing.TB, method, url string, body []byte, header map[string]string) (int, http.Header, string) {
	t.Helper()
	request, err := http.NewRequestWithContext(t.Context(), method, url, bytes.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	for name, value := range header {
		request.Header.Set(name, value)
	}
	response, err := http.DefaultTransport.RoundTrip(request)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = response.Body.Close() }()
	answer, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	return response.StatusCode, response.Header, string(answer)
}

// published returns the URL of a log of n entries, all in its checkpoint.
func published(t *testing.T, n int) (string, Config, *authority) {
	t.Helper()
	a, cfg := newAuthority(t), newConfig(t)
	cfg.Roots = a.roots
	l := open(t, cfg)
	submit(t, l, a, n)
	shutdown(t, l)
	return serve(t, l), cfg, a
}

var update = flag.Bool("update", false, "write the answers in testdata/requests.txt")

// TestRequests compares the answers to the requests in testdata/requests.txt with those behind them.
// An error is JSON with an error_message, and not cached.
func TestRequests(t *testing.T) {
	t.Parallel()
	url, _, a := published(t, 300)
	const file = "testdata/requests.txt"
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	expand := strings.NewReplacer("$TOKEN", testToken, "$ISSUER", hex.EncodeToString(sum(a.Intermediate.Raw)), "$LONG", strings.Repeat("A", maxSubmission))
	if n := strings.Count(string(want), " -> "); n < 60 {
		t.Errorf("there are %d requests only", n)
	}
	var got strings.Builder
	for line := range strings.Lines(string(want)) {
		request, _, found := strings.Cut(line, " -> ")
		if !found {
			if text := strings.TrimSpace(line); text != "" && text[0] != '#' {
				t.Errorf("the line %q is no request", text)
			}
			got.WriteString(line)
			continue
		}
		part := append(strings.Split(expand.Replace(request), " | "), "", "")
		method, path, _ := strings.Cut(part[0], " ")
		status, header, body := do(t, method, url+path, []byte(part[2]), map[string]string{"Authorization": part[1]})
		fmt.Fprintf(&got, "%s -> %d %s, %s", request, status, header.Get("Content-Type"), header.Get("Cache-Control"))
		if strings.Contains(path, "/tile/") && !strings.Contains(path, "data") && status == http.StatusOK || len(body) < 20 {
			fmt.Fprintf(&got, ", %d bytes", len(body))
		}
		got.WriteString("\n")
		var answer struct {
			ErrorMessage string `json:"error_message"`
		}
		if _ = json.Unmarshal([]byte(body), &answer); (status >= 400) != (answer.ErrorMessage != "" && header.Get("Cache-Control") == private) {
			t.Errorf("%s: %d %s %v", request, status, body, header)
		}
		if status != http.StatusOK {
			continue
		}
		if head, headHeader, _ := do(t, http.MethodHead, url+path, nil, nil); head != status || headHeader.Get("Content-Type") != header.Get("Content-Type") {
			t.Errorf("HEAD %s: %d, %v", path, head, headHeader)
		}
		if etag := header.Get("Etag"); etag != "" {
			if status, _, _ := do(t, http.MethodGet, url+path, nil, map[string]string{"If-None-Match": etag}); status != http.StatusNotModified {
				t.Errorf("%s with its own ETag: %d", path, status)
			}
		}
	}
	if diff := cmp.Diff(string(want), got.String()); diff != "" && !*update {
		t.Errorf("answers (-want +got):\n%s", diff)
	}
	if *update {
		write(t, file, []byte(got.String()))
	}
}

func TestDataTilesAreCompressed(t *testing.T) {
	t.Parallel()
	url, _, _ := published(t, 20)
	_, _, plain := do(t, http.MethodGet, url+"/tile/data/000.p/20", nil, nil)
	status, header, body := do(t, http.MethodGet, url+"/tile/data/000.p/20", nil, map[string]string{"Accept-Encoding": "br, gzip"})
	if status != http.StatusOK || header.Get("Content-Encoding") != "gzip" || header.Get("Vary") != "Accept-Encoding" || header.Get("Cache-Control") != immutable {
		t.Fatalf("%d, %v", status, header)
	}
	z, err := gzip.NewReader(strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	if got, err := io.ReadAll(z); err != nil || string(got) != plain || len(body) >= len(plain) {
		t.Errorf("%d bytes became %d: %v", len(plain), len(body), err)
	}
}

// TestRefusesChains: a client with the token may still submit only what the CA has issued.
func TestRefusesChains(t *testing.T) {
	t.Parallel()
	a, cfg := newAuthority(t), newConfig(t)
	cfg.Roots = a.roots
	l := open(t, cfg)
	url := serve(t, l)
	stranger := newAuthority(t)
	d := a.Draft(t)
	sub := d.Submission
	final := d.Certificate(t, ctlog.SCT{})
	forged := bytes.Clone(sub.Chain[0])
	forged[len(forged)-1] ^= 1
	for _, test := range []struct {
		name, path string
		chain      [][]byte
		says       string
	}{
		{"a stranger's", "add-pre-chain", stranger.submission(t).Chain, "does not lead to a root that this log accepts"},
		{"a stranger's leaf over our chain", "add-pre-chain", [][]byte{stranger.submission(t).Chain[0], sub.Chain[1], sub.Chain[2]}, "does not lead to a root"},
		{"a wrong signature", "add-pre-chain", [][]byte{forged, sub.Chain[1], sub.Chain[2]}, "does not lead to a root"},
		{"no intermediate", "add-pre-chain", [][]byte{sub.Chain[0], sub.Chain[2]}, "does not lead to a root"},
		{"out of order", "add-pre-chain", [][]byte{sub.Chain[0], sub.Chain[2], sub.Chain[1]}, "are not in order"},
		{"a certificate too many", "add-pre-chain", append(slices.Clone(sub.Chain), stranger.Root.Raw), "are not in order"},
		{"the root alone", "add-chain", [][]byte{a.Root.Raw}, "are not in order"},
		{"a certificate as a precertificate", "add-pre-chain", [][]byte{final, sub.Chain[1]}, "with the poison extension"},
		{"a precertificate as a certificate", "add-chain", sub.Chain, "with the poison extension"},
		{"too many", "add-chain", slices.Repeat([][]byte{a.Root.Raw}, 11), "has 11 certificates"},
	} {
		status, _, body := post(t, url+"/ct/v1/"+test.path, testToken, chainJSON(t, test.chain))
		if status != http.StatusBadRequest || !strings.Contains(body, test.says) {
			t.Errorf("%s: %d %s, want %q", test.name, status, body, test.says)
		}
	}
	if s := l.Status(); s.TreeSize != 0 {
		t.Errorf("%d of them are in the log", s.TreeSize)
	}
	shutdown(t, l)
	cfg.SubmitToken = nil // submission is off
	url = serve(t, open(t, cfg))
	for _, token := range []string{"", testToken} {
		if status, _, body := post(t, url+"/ct/v1/add-pre-chain", token, chainJSON(t, sub.Chain)); status != http.StatusForbidden {
			t.Errorf("without a token in the configuration: %d %s", status, body)
		}
	}
}

func TestReplays(t *testing.T) {
	t.Parallel()
	r := newReplays(2)
	calls := uint64(0)
	once := func(key byte, err error, want uint64) {
		t.Helper()
		sct, got := r.once(t.Context(), [32]byte{key}, func(context.Context) (ctlog.SCT, error) {
			calls++
			return ctlog.SCT{Timestamp: calls}, err
		})
		if !errors.Is(got, err) || sct.Timestamp != want {
			t.Errorf("%d: got %d, %v, want %d", key, sct.Timestamp, got, want)
		}
	}
	once(1, nil, 1)
	once(1, nil, 1)
	once(2, errClosed, 2) // failures are forgotten
	once(2, nil, 3)
	once(2, nil, 3)
	for key := byte(3); key < 100; key++ {
		once(key, nil, uint64(key)+1)
		once(key-1, nil, uint64(key)) // the last two are known
	}
	if len(r.young) > 2 || len(r.old) > 2 {
		t.Errorf("%d and %d submissions are remembered", len(r.young), len(r.old))
	}

	// A caller that leaves does not stop the submission.
	ctx, cancel := context.WithCancel(t.Context())
	started, release := make(chan struct{}), make(chan struct{})
	left := make(chan error)
	slow := func(ctx context.Context) (ctlog.SCT, error) {
		close(started)
		<-release
		return ctlog.SCT{Timestamp: 99}, ctx.Err()
	}
	go func() {
		_, err := r.once(ctx, [32]byte{200}, slow)
		left <- err
	}()
	<-started
	cancel()
	if err := <-left; !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
	close(release)
	once(200, nil, 99)
}
