// SPDX-License-Identifier: Apache-2.0

package embedded

import (
	"crypto/rand"
	"encoding/json"
	"errors"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"

	"github.com/mayfly-ca/mayfly/ctlog"
)

// fatEntries is the number of entries of about 64 KiB each in a fat log, all published.
const fatEntries = 120

func fatLog(t *testing.T) *Log {
	t.Helper()
	a, cfg := newAuthority(t), newConfig(t)
	cfg.Roots = a.roots
	l := open(t, cfg)
	submissions := make([]ctlog.Submission, fatEntries)
	for i := range submissions {
		submissions[i] = ctlog.Submission{Chain: [][]byte{random(32 << 10), a.Intermediate.Raw, a.Root.Raw}, TBS: random(32 << 10)}
	}
	submitAll(t, l, submissions)
	shutdown(t, l)
	return l
}

func random(n int) []byte {
	b := make([]byte, n)
	_, _ = rand.Read(b)
	return b
}

// stuck is a client that reads nothing until the test ends.
type stuck struct {
	*httptest.ResponseRecorder
	writes  func() // reports the first write
	release <-chan struct{}
}

func (s *stuck) Write([]byte) (int, error) {
	s.writes()
	<-s.release
	return 0, errors.New("the client has gone")
}

// TestAnswersHoldLittle: while a client does not read, the memory of its answer depends on one
// entry, and not on the tile.
func TestAnswersHoldLittle(t *testing.T) {
	l := fatLog(t)
	handler := l.Handler()
	const readers, most = 8, 512 << 10
	for _, test := range []struct{ path, encoding string }{
		{"/ct/v1/get-entries?start=0&end=119", ""},
		{"/ct/v1/get-entries?start=119&end=119", ""},
		{"/ct/v1/get-entry-and-proof?leaf_index=119&tree_size=120", ""},
		{"/tile/data/000.p/120", ""},
		{"/tile/data/000.p/120", "gzip"},
		{"/tile/data/000.p/119", "gzip"},
		{"/tile/0/000.p/120", ""},
	} {
		before := heap()
		release := make(chan struct{})
		var writing, ended sync.WaitGroup
		writing.Add(readers)
		for range readers {
			w := &stuck{ResponseRecorder: httptest.NewRecorder(), writes: sync.OnceFunc(writing.Done), release: release}
			r := httptest.NewRequestWithContext(t.Context(), http.MethodGet, test.path, nil)
			r.Header.Set("Accept-Encoding", test.encoding)
			ended.Go(func() { handler.ServeHTTP(w, r) })
		}
		writing.Wait()
		held := (heap() - before) / readers
		close(release)
		ended.Wait()
		t.Logf("%s %s: %d KiB for each reader", test.path, test.encoding, held>>10)
		if held > most {
			t.Errorf("%s %s: an answer holds %d bytes while its client does not read; at most %d are expected", test.path, test.encoding, held, most)
		}
	}
}

func heap() int64 {
	runtime.GC()
	runtime.GC() // frees what the first one has finalized
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

// TestLargeEntriesAreRead: the size of an answer to get-entries is bounded, but it has at least
// one entry. A client that continues after the last entry reads the whole log.
func TestLargeEntriesAreRead(t *testing.T) {
	t.Parallel()
	l := fatLog(t)
	url := serve(t, l)
	c := ctClient(t, url, l.PublicKey())
	answers := 0
	for next := int64(0); next < fatEntries; answers++ {
		entries, err := c.GetRawEntries(t.Context(), next, fatEntries)
		if err != nil || len(entries.Entries) == 0 {
			t.Fatalf("from %d: %d entries, %v", next, len(entries.Entries), err)
		}
		size := 0
		for _, e := range entries.Entries {
			size += (len(e.LeafInput) + len(e.ExtraData)) * 4 / 3
		}
		if size > maxAnswer {
			t.Errorf("from %d: %d bytes of %d entries; at most %d are expected", next, size, len(entries.Entries), maxAnswer)
		}
		next += int64(len(entries.Entries))
	}
	if answers < 3 || answers > 6 {
		t.Errorf("%d entries of 64 KiB took %d answers", fatEntries, answers)
	}
}

// TestDamageEndsAnAnswer: clients can read entries before a damaged one, and the request for the
// damaged one gets the error. The log skips none.
func TestDamageEndsAnAnswer(t *testing.T) {
	t.Parallel()
	a, cfg := newAuthority(t), newConfig(t)
	cfg.Roots, cfg.Logger = a.roots, discard()
	l := openSpoilt(t, cfg)
	submit(t, l, a, 20)
	shutdown(t, l)
	at := 0
	for leaf, err := range l.directory.entries(0, 7, 20) {
		if err != nil {
			t.Fatal(err)
		}
		at += leaf.Size
	}
	flip(t, filepath.Join(cfg.Dir, "tile/data/000.p/20"), at+9) // the type of entry 7
	url := serve(t, l)
	for _, test := range []struct {
		path    string
		status  int
		entries int
	}{
		{"/ct/v1/get-entries?start=0&end=19", 200, 7},
		{"/ct/v1/get-entries?start=6&end=19", 200, 1},
		{"/ct/v1/get-entries?start=2&end=3", 200, 2},
		{"/ct/v1/get-entries?start=7&end=19", 500, 0},
		{"/ct/v1/get-entries?start=8&end=19", 500, 0},
		{"/ct/v1/get-entry-and-proof?leaf_index=6&tree_size=20", 200, 0},
		{"/ct/v1/get-entry-and-proof?leaf_index=7&tree_size=20", 500, 0},
		{"/tile/data/000.p/7", 200, 0},
		{"/tile/data/000.p/8", 500, 0},
	} {
		status, _, body := do(t, http.MethodGet, url+test.path, nil, nil)
		if status != test.status || strings.Count(body, `"extra_data"`) != test.entries && strings.Contains(test.path, "get-entries") {
			t.Errorf("%s: %d with %d entries, want %d with %d: %.200s", test.path, status, strings.Count(body, `"extra_data"`), test.status, test.entries, body)
		}
		if status == http.StatusOK && strings.HasPrefix(test.path, "/ct/") && !json.Valid([]byte(body)) {
			t.Errorf("%s: the answer is no JSON", test.path)
		}
	}
}
