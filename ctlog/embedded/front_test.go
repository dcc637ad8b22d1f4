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
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"

	ct "github.com/google/certificate-transparency-go"

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

func TestReads(t *testing.T) {
	t.Parallel()
	url, _, a := published(t, 300)
	fingerprint := hex.EncodeToString(sum(a.Intermediate.Raw))
	for _, test := range []struct {
		path    string
		kind    string
		caching string
		size    int // of the body; 0 for any
	}{
		{"/checkpoint", "text/plain; charset=utf-8", mutable, 0},
		{"/tile/0/000", "application/octet-stream", immutable, 256 * 32},
		{"/tile/0/001.p/44", "application/octet-stream", immutable, 44 * 32},
		{"/tile/0/001.p/7", "application/octet-stream", immutable, 7 * 32},
		{"/tile/0/000.p/255", "application/octet-stream", immutable, 255 * 32},
		{"/tile/1/000.p/1", "application/octet-stream", immutable, 32},
		{"/tile/data/000", "application/octet-stream", immutable, 0},
		{"/tile/data/001.p/44", "application/octet-stream", immutable, 0},
		{"/tile/data/001.p/1", "application/octet-stream", immutable, 0},
		{"/issuer/" + fingerprint, "application/pkix-cert", immutable, len(a.Intermediate.Raw)},
		{"/ct/v1/get-sth", "application/json", mutable, 0},
		{"/ct/v1/get-entries?start=0&end=0", "application/json", mutable, 0},
		{"/ct/v1/get-sth-consistency?first=1&second=300", "application/json", immutable, 0},
		{"/ct/v1/get-sth-consistency?first=0&second=300", "application/json", immutable, len("{\"consistency\":[]}\n")},
		{"/ct/v1/get-sth-consistency?first=300&second=300", "application/json", immutable, len("{\"consistency\":[]}\n")},
		{"/ct/v1/get-entry-and-proof?leaf_index=299&tree_size=300", "application/json", immutable, 0},
		{"/ct/v1/get-entry-and-proof?leaf_index=0&tree_size=1", "application/json", immutable, 0},
	} {
		status, header, body := do(t, http.MethodGet, url+test.path, nil, nil)
		if status != http.StatusOK || header.Get("Content-Type") != test.kind || header.Get("Cache-Control") != test.caching || test.size > 0 && len(body) != test.size {
			t.Errorf("%s: %d, %d bytes, %v", test.path, status, len(body), header)
		}
		status, head, _ := do(t, http.MethodHead, url+test.path, nil, nil)
		if status != http.StatusOK || head.Get("Content-Type") != test.kind {
			t.Errorf("HEAD %s: %d, %v", test.path, status, head)
		}
		if etag := header.Get("Etag"); etag != "" {
			if status, _, _ := do(t, http.MethodGet, url+test.path, nil, map[string]string{"If-None-Match": etag}); status != http.StatusNotModified {
				t.Errorf("%s with its own ETag: %d", test.path, status)
			}
		}
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

func TestRefusals(t *testing.T) {
	t.Parallel()
	url, _, _ := published(t, 300)
	authorization := map[string]string{"Authorization": "Bearer " + testToken}
	for _, test := range []struct {
		method, path string
		header       map[string]string
		body         string
		status       int
	}{
		{"GET", "/", nil, "", 404},
		{"GET", "/nothing", nil, "", 404},
		{"GET", "//checkpoint", nil, "", 404},
		{"POST", "/checkpoint", nil, "", 405},
		{"DELETE", "/tile/0/000", nil, "", 405},
		{"GET", "/ct/v1/add-pre-chain", authorization, "", 405},
		{"GET", "/tile/0/001", nil, "", 404},
		{"GET", "/tile/0/001.p/45", nil, "", 404},
		{"GET", "/tile/0/002.p/1", nil, "", 404},
		{"GET", "/tile/2/000.p/1", nil, "", 404},
		{"GET", "/tile/data/001", nil, "", 404},
		{"GET", "/tile/6/000", nil, "", 404},
		{"GET", "/tile/00/000", nil, "", 404},
		{"GET", "/tile/0/0", nil, "", 404},
		{"GET", "/tile/0/000.p/0", nil, "", 404},
		{"GET", "/tile/0/000.p/256", nil, "", 404},
		{"GET", "/tile/0/000.p/01", nil, "", 404},
		{"GET", "/tile/0/x000/000", nil, "", 404},
		{"GET", "/tile/0/../../.state/treeState", nil, "", 404},
		{"GET", "/tile/entries/000", nil, "", 404},
		{"GET", "/issuer/", nil, "", 404},
		{"GET", "/issuer/" + strings.Repeat("AB", 32), nil, "", 404},
		{"GET", "/issuer/" + strings.Repeat("ab", 32), nil, "", 404},
		{"GET", "/issuer/../../../" + strings.Repeat("a", 55), nil, "", 404},
		{"GET", "/ct/v1/get-entries", nil, "", 400},
		{"GET", "/ct/v1/get-entries?start=0&start=1&end=1", nil, "", 400},
		{"GET", "/ct/v1/get-entries?start=-1&end=1", nil, "", 400},
		{"GET", "/ct/v1/get-entries?start=0&end=99999999999999999999", nil, "", 400},
		{"GET", "/ct/v1/get-entries?start=2&end=1", nil, "", 400},
		{"GET", "/ct/v1/get-entries?start=300&end=300", nil, "", 400},
		{"GET", "/ct/v1/get-sth-consistency?first=2&second=1", nil, "", 400},
		{"GET", "/ct/v1/get-sth-consistency?first=2&second=301", nil, "", 400},
		{"GET", "/ct/v1/get-entry-and-proof?leaf_index=5&tree_size=5", nil, "", 400},
		{"GET", "/ct/v1/get-entry-and-proof?leaf_index=5&tree_size=301", nil, "", 400},
		{"GET", "/ct/v1/get-proof-by-hash?hash=AA==&tree_size=1", nil, "", 501},
		{"GET", "/ct/v1/get-roots", nil, "", 401},
		{"POST", "/ct/v1/add-pre-chain", nil, "{}", 401},
		{"POST", "/ct/v1/add-pre-chain", map[string]string{"Authorization": "Basic " + testToken}, "{}", 401},
		{"POST", "/ct/v1/add-pre-chain", map[string]string{"Authorization": "Bearer wrong"}, "{}", 403},
		{"POST", "/ct/v1/add-pre-chain", map[string]string{"Authorization": "Bearer " + testToken + "x"}, "{}", 403},
		{"POST", "/ct/v1/add-pre-chain", authorization, "{", 400},
		{"POST", "/ct/v1/add-pre-chain", authorization, `{"chain":["A"]}`, 400},
		{"POST", "/ct/v1/add-pre-chain", authorization, `{}`, 400},
		{"POST", "/ct/v1/add-pre-chain", authorization, `{"chain":["AAAA"]}`, 400},
		{"POST", "/ct/v1/add-chain", authorization, `{"chain":["` + strings.Repeat("A", maxSubmission) + `"]}`, 413},
	} {
		status, header, body := do(t, test.method, url+test.path, []byte(test.body), test.header)
		var answer struct {
			ErrorMessage string `json:"error_message"`
		}
		if err := json.Unmarshal([]byte(body), &answer); err != nil || status != test.status || answer.ErrorMessage == "" ||
			header.Get("Content-Type") != "application/json" || header.Get("Cache-Control") != private {
			t.Errorf("%s %s: %d %q, want %d (%v)", test.method, test.path, status, body, test.status, header)
		}
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
		{"too large", "add-chain", [][]byte{make([]byte, maxCertificate+1)}, "more than 65536 bytes"},
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

// TestSubmittedTBS: for a precertificate over HTTP, the log stores the same TBSCertificate
// that the CA submits to its own log.
func TestSubmittedTBS(t *testing.T) {
	t.Parallel()
	a := newAuthority(t)
	sub := a.submission(t)
	chain, err := checkChain(sub.Chain, a.roots())
	if err != nil {
		t.Fatal(err)
	}
	e, err := newEntry(chain, true)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(e.Certificate, sub.TBS) || !bytes.Equal(e.IssuerKeyHash, sub.IssuerKeyHash[:]) || !bytes.Equal(e.Precertificate, sub.Chain[0]) {
		t.Error("the entry is not the one that Submit would log")
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
