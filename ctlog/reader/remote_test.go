// SPDX-License-Identifier: Apache-2.0

package reader

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	ct "github.com/google/certificate-transparency-go"
	"github.com/transparency-dev/tessera/api/layout"
	"github.com/transparency-dev/tessera/ctonly"

	"github.com/mayfly-ca/mayfly/ctlog"
)

const signature = "\n— log.example AAAAAAAA\n"

// answers is a log that answers each path with a body, and with 404 any other.
func answers(t *testing.T, bodies map[string]string) *httptest.Server {
	t.Helper()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, ok := bodies[r.URL.RequestURI()]
		switch {
		case !ok:
			http.NotFound(w, r)
		case strings.HasPrefix(body, "redirect "):
			http.Redirect(w, r, strings.TrimPrefix(body, "redirect "), http.StatusFound)
		default:
			_, _ = w.Write([]byte(body))
		}
	}))
	t.Cleanup(server.Close)
	return server
}

func tileOf(size, first uint64) string {
	var tile []byte
	for i := range size {
		tile = append(tile, (&ctonly.Entry{Timestamp: 7, Certificate: []byte("certificate")}).LeafData(first+i)...)
	}
	return string(tile)
}

func leaves(t *testing.T, n int) string {
	t.Helper()
	entry := ctonly.Entry{Timestamp: 7, Certificate: []byte("certificate")}
	var answer ct.GetEntriesResponse
	for range n {
		answer.Entries = append(answer.Entries, ct.LeafEntry{LeafInput: entry.MerkleTreeLeaf(0), ExtraData: []byte{0, 0, 0}})
	}
	body, err := json.Marshal(answer)
	if err != nil {
		t.Fatal(err)
	}
	return string(body)
}

const (
	checkpoint3 = "log.example\n3\n47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=\n" + signature
	head3       = `{"tree_size":3,"timestamp":1,"sha256_root_hash":"47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=","tree_head_signature":"BAMAATA="}`
)

// TestOpenRefuses: what is no log's answer, and what is more than a log may answer.
func TestOpenRefuses(t *testing.T) {
	t.Parallel()
	elsewhere := answers(t, map[string]string{"/checkpoint": checkpoint3, "/ct/v1/get-sth": head3})
	for name, test := range map[string]struct {
		bodies map[string]string
		want   string
	}{
		"no log":             {nil, "neither a static-ct-api log nor a log of RFC 6962"},
		"a web page":         {map[string]string{"/checkpoint": "<!DOCTYPE html>"}, "is no checkpoint"},
		"no signature":       {map[string]string{"/checkpoint": strings.TrimSuffix(checkpoint3, signature)}, "is no checkpoint"},
		"too many entries":   {map[string]string{"/checkpoint": strings.Replace(checkpoint3, "3", "1099511627777", 1)}, "at most 2^40"},
		"a long checkpoint":  {map[string]string{"/checkpoint": checkpoint3 + strings.Repeat("x", 1<<17)}, "more than 65536 bytes"},
		"another site":       {map[string]string{"/checkpoint": "redirect " + elsewhere.URL + "/checkpoint"}, "302"},
		"a tree head of XML": {map[string]string{"/ct/v1/get-sth": "<sth/>"}, "invalid character"},
		"a short root":       {map[string]string{"/ct/v1/get-sth": strings.Replace(head3, "47DEQpj8", "", 1)}, "sha256_root_hash"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if _, _, err := Open(t.Context(), Config{URL: answers(t, test.bodies).URL}); err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("got %v, want %q", err, test.want)
			}
		})
	}
}

func TestReadRefuses(t *testing.T) {
	t.Parallel()
	const tile, entries = "/tile/data/000.p/3", "/ct/v1/get-entries?start=0&end=2"
	for name, test := range map[string]struct {
		path, body, want string
	}{
		"":                        {tile, tileOf(3, 0), ""},
		"from the full tile":      {"/tile/data/000", tileOf(200, 0), ""},
		"no tile":                 {"/x", "", "404"},
		"too few entries":         {tile, tileOf(2, 0), "entry 2: an entry ends early"},
		"others":                  {tile, tileOf(3, 256), "entry 0: it has the index 256"},
		"too much":                {tile, strings.Repeat("x", maxTile+1), "more than 16777216 bytes"},
		"a huge entry":            {tile, "\x00\x00\x00\x00\x00\x00\x00\x07\x00\x00\xff\xff\xff", "more than 262144 bytes"},
		"RFC 6962":                {entries, leaves(t, 3), ""},
		"RFC 6962: none":          {entries, leaves(t, 0), "returns 0 entries; 1 to 3 were asked for"},
		"RFC 6962: more":          {entries, leaves(t, 4), "returns 4 entries; 1 to 3 were asked for"},
		"RFC 6962: fewer":         {entries, leaves(t, 2), "get-entries?start=2&end=2: the log answered 404"},
		"RFC 6962: no JSON":       {entries, "{", "unexpected end of JSON"},
		"RFC 6962: no leaf":       {entries, `{"entries":[{},{},{}]}`, "entry 0: failed to unmarshal"},
		"RFC 6962: a new type":    {entries, `{"entries":[{"leaf_input":"AAEAAAAA"}]}`, "entry 0: failed to unmarshal"},
		"RFC 6962: a new version": {entries, strings.ReplaceAll(leaves(t, 3), `"leaf_input":"A`, `"leaf_input":"B`), "its version is 4"},
		"RFC 6962: a wrong end":   {entries, strings.ReplaceAll(leaves(t, 3), `"AAAA"`, `"AAAAAA=="`), "trailing data"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			bodies := map[string]string{test.path: test.body, "/ct/v1/get-sth": head3}
			if test.path != entries {
				bodies["/checkpoint"] = checkpoint3
			}
			s, _, err := Open(t.Context(), Config{URL: answers(t, bodies).URL})
			if err != nil {
				t.Fatal(err)
			}
			n := uint64(0)
			for batch, errBatch := range s.Batches(t.Context(), (&segment{end: s.Head.Size}).backward(&Query{})) {
				for _, entry := range batch {
					if entry.Index != n || entry.Timestamp != 7 || !bytes.Equal(entry.Certificate, []byte("certificate")) {
						t.Errorf("entry %d: %+v", n, entry)
					}
					n++
				}
				err = errBatch
			}
			if (err == nil) != (test.want == "") || err != nil && !strings.Contains(err.Error(), test.want) || err == nil && n != 3 {
				t.Errorf("%d entries, %v; want %q", n, err, test.want)
			}
		})
	}
}

// TestBusyLogIsAskedAgain, but not without end.
func TestBusyLogIsAskedAgain(t *testing.T) {
	t.Parallel()
	for _, busy := range []int32{maxTries - 1, maxTries} {
		var asked atomic.Int32
		log := answers(t, map[string]string{"/checkpoint": checkpoint3, "/tile/data/000.p/3": tileOf(3, 0)}).Config.Handler
		server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if strings.HasPrefix(r.URL.Path, "/tile/") && asked.Add(1) <= busy {
				w.WriteHeader(http.StatusTooManyRequests)
				return
			}
			log.ServeHTTP(w, r)
		}))
		t.Cleanup(server.Close)
		s, _, err := Open(t.Context(), Config{URL: server.URL, Backoff: time.Nanosecond})
		if err != nil {
			t.Fatal(err)
		}
		_, err = s.Read(t.Context(), 0, 3)
		if refused := errors.As(err, new(*ctlog.RetryableError)); refused != (busy == maxTries) || !refused && err != nil || asked.Load() != maxTries {
			t.Errorf("busy for %d answers: asked %d times, %v", busy, asked.Load(), err)
		}
	}
}

// TestSearchStopsBySince: an entry of another time does not end a search, a batch of older ones does.
func TestSearchStopsBySince(t *testing.T) {
	t.Parallel()
	var read []uint64
	at := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	s := &Source{Head: Head{Size: 3 * Batch}, Parallel: 1, Disorder: time.Minute, Read: func(_ context.Context, first, end uint64) (entries []*Entry, _ error) {
		read = append(read, first)
		for index := first; index < end; index++ {
			old := time.Duration(3-index/Batch) * time.Minute
			if index == 2*Batch+7 {
				old = 1000 * time.Hour
			}
			entries = append(entries, &Entry{Index: index, Timestamp: uint64(at.Add(-old).UnixMilli())})
		}
		return entries, nil
	}}
	for _, err := range s.Search(t.Context(), Query{Since: at.Add(-30 * time.Second)}) {
		t.Fatal(err)
	}
	if !slices.Equal(read, []uint64{2 * Batch, Batch}) {
		t.Errorf("read the batches %v", read)
	}
}

// FuzzLeafEntry: what get-entries returns is read completely or refused.
func FuzzLeafEntry(f *testing.F) {
	entry := ctonly.Entry{IsPrecert: true, Certificate: []byte("tbs"), Precertificate: []byte("precertificate"), IssuerKeyHash: make([]byte, 32)}
	f.Add(entry.MerkleTreeLeaf(7), []byte{0, 0, 1, 'x', 0, 0, 0})
	entry.IsPrecert = false
	f.Add(entry.MerkleTreeLeaf(7), []byte{0, 0, 0})
	f.Fuzz(func(t *testing.T, leaf, extra []byte) {
		e, err := leafEntry(7, &ct.LeafEntry{LeafInput: leaf, ExtraData: extra})
		if err == nil && (!bytes.Equal(e.MerkleTreeLeaf(), leaf) || !bytes.Contains(append(leaf, extra...), e.Certificate)) {
			t.Errorf("%x, %x became %+v", leaf, extra, e)
		}
	})
}

// BenchmarkRead reads a static-ct-api log of 16,384 entries of 3 KiB over loopback.
func BenchmarkRead(b *testing.B) {
	const tiles = 64
	bodies := map[string][]byte{"/checkpoint": []byte(strings.Replace(checkpoint3, "\n3\n", "\n16384\n", 1))}
	certificate := make([]byte, 1500)
	for i := range uint64(tiles) {
		var tile []byte
		for j := range uint64(Batch) {
			entry := ctonly.Entry{IsPrecert: true, Certificate: certificate, Precertificate: certificate, IssuerKeyHash: make([]byte, 32)}
			tile = append(tile, entry.LeafData(i*Batch+j)...)
		}
		bodies["/tile/data/"+layout.NWithSuffix(0, i, 0)] = tile
	}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { _, _ = w.Write(bodies[r.URL.Path]) }))
	b.Cleanup(server.Close)
	s, _, err := Open(b.Context(), Config{URL: server.URL})
	if err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		for _, err := range s.Search(b.Context(), Query{Identity: "no-one@example.com"}) {
			b.Fatal(err)
		}
	}
	b.ReportMetric(tiles*Batch*float64(b.N)/b.Elapsed().Seconds(), "entries/s")
}
