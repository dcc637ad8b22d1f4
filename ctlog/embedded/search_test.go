// SPDX-License-Identifier: Apache-2.0

package embedded

import (
	"context"
	"crypto/x509"
	"errors"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/mayfly-ca/mayfly/certs"
	"github.com/mayfly-ca/mayfly/ctlog"
	"github.com/mayfly-ca/mayfly/ctlog/reader"
)

func TestSearch(t *testing.T) {
	t.Parallel()
	a, cfg := newAuthority(t), newConfig(t)
	var hour atomic.Int64
	cfg.Now = func() time.Time { return time.Date(2026, 1, 1, int(hour.Load()), 0, 0, 0, time.UTC) }
	l := open(t, cfg)
	sans := []certs.SAN{
		{Kind: certs.SANEmail, Value: "alice@example.com"},
		{Kind: certs.SANURI, Value: "https://build.example/workflow"},
		{Kind: certs.SANUserName, Value: "alice!example.com"},
		{Kind: certs.SANEmail, Value: "malice@example.com"},
		{Kind: certs.SANEmail, Value: "alice@example.com"},
	}
	issuers := []string{"https://one.example", "https://two.example", "https://two.example", "https://one.example", "https://two.example"}
	var serials [][]byte
	for i, san := range sans {
		sub := a.DraftFor(t, san, issuers[i]).Submission
		submitAll(t, l, []ctlog.Submission{sub})
		hour.Add(2)
		c, err := x509.ParseCertificate(sub.Chain[0])
		if err != nil {
			t.Fatal(err)
		}
		serials = append(serials, c.SerialNumber.Bytes())
	}
	// Search skips certificates of other CAs.
	submitAll(t, l, []ctlog.Submission{{Chain: [][]byte{a.Intermediate.Raw, a.Root.Raw}, TBS: []byte("alice@example.com")}})
	// No Shutdown: a search finds entries before they are published, and while a writer runs.
	source, err := Source(cfg)
	if err != nil {
		t.Fatal(err)
	}
	at := func(hours int) time.Time { return time.Date(2026, 1, 1, hours, 0, 0, 0, time.UTC) }
	for _, test := range []struct {
		name string
		q    reader.Query
		want []uint64
	}{
		{"everything", reader.Query{}, []uint64{4, 3, 2, 1, 0}},
		{"an identity", reader.Query{Identity: "alice@example.com"}, []uint64{4, 0}},
		{"a URI", reader.Query{Identity: "https://build.example/workflow"}, []uint64{1}},
		{"a part of a URI", reader.Query{Identity: "https://build.example/"}, nil},
		{"a user name", reader.Query{Identity: "alice!example.com"}, []uint64{2}},
		{"an issuer", reader.Query{Issuer: "https://two.example"}, []uint64{4, 2, 1}},
		{"an identity of an issuer", reader.Query{Identity: "alice@example.com", Issuer: "https://one.example"}, []uint64{0}},
		{"a serial number", reader.Query{Serial: serials[3]}, []uint64{3}},
		{"a part of a serial number", reader.Query{Serial: serials[3][1:]}, nil},
		{"nobody", reader.Query{Identity: "bob@example.com"}, nil},
		{"the beginning of an identity", reader.Query{Identity: "alice*"}, []uint64{4, 2, 0}},
		{"the beginning of an issuer", reader.Query{Issuer: "https://t*"}, []uint64{4, 2, 1}},
		{"a pattern", reader.Query{Issuer: "https://*.example"}, []uint64{4, 3, 2, 1, 0}},
		{"a part twice", reader.Query{Issuer: "https://two*o.example"}, nil},
		{"parts in another order", reader.Query{Issuer: "*.example*two*"}, nil},
		{"several parts", reader.Query{Issuer: "*://*w*.example", Identity: "alice@*"}, []uint64{4}},
		{"between", reader.Query{Since: at(2), Until: at(5)}, []uint64{2, 1}},
		{"since", reader.Query{Since: at(4)}, []uint64{4, 3, 2}},
	} {
		var got []uint64
		for found, err := range source.Search(t.Context(), test.q) {
			if err != nil {
				t.Fatal(err)
			}
			got = append(got, found.Index)
			if found.SAN != sans[found.Index] || found.Issuer != issuers[found.Index] {
				t.Errorf("%s: found %+v", test.name, found)
			}
			if want := at(2 * int(found.Index)); !found.Timestamp.Equal(want) {
				t.Errorf("entry %d is of %s, not %s", found.Index, found.Timestamp, want)
			}
		}
		if diff := cmp.Diff(test.want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", test.name, diff)
		}
	}
}

func TestSearchReadsTheNewestFirst(t *testing.T) {
	t.Parallel()
	base, cfg, _ := published(t, 520)
	_, key, err := cfg.complete()
	if err != nil {
		t.Fatal(err)
	}
	old := withoutTiles(t, base)
	at := func(url string, key *ctlog.PublicKey) func() (*reader.Source, error) {
		return func() (*reader.Source, error) {
			s, _, err := reader.Open(t.Context(), reader.Config{URL: url, Key: key})
			return s, err
		}
	}
	for name, test := range map[string]struct {
		open   func() (*reader.Source, error)
		signed bool
	}{
		"directory":               {open: func() (*reader.Source, error) { return Source(cfg) }},
		"static-ct-api":           {open: at(base, nil)},
		"static-ct-api, verified": {open: at(base, key.PublicKey), signed: true},
		"RFC 6962":                {open: at(old, nil), signed: true},
		"RFC 6962, verified":      {open: at(old, key.PublicKey), signed: true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			source, err := test.open()
			if err != nil || source.Signed.IsZero() == test.signed {
				t.Fatalf("%+v, %v", source, err)
			}
			next := uint64(520)
			for e, err := range source.Search(t.Context(), reader.Query{}) {
				if next--; err != nil || e.Index != next || e.SAN.Value != "https://build.example/workflow" {
					t.Fatalf("got entry %v, %v, want %d", e, err, next)
				}
			}
			if next != 0 {
				t.Errorf("the search ended before entry %d", next)
			}
			ctx, cancel := context.WithCancel(t.Context())
			cancel()
			for _, err := range source.Search(ctx, reader.Query{}) {
				if !errors.Is(err, context.Canceled) {
					t.Errorf("got %v", err)
				}
			}
		})
	}
}

// withoutTiles serves the log at base as one of RFC 6962 alone.
func withoutTiles(t *testing.T, base string) string {
	t.Helper()
	log, err := url.Parse(base)
	if err != nil {
		t.Fatal(err)
	}
	proxy := httputil.NewSingleHostReverseProxy(log)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !strings.HasPrefix(r.URL.Path, "/ct/v1/") {
			http.NotFound(w, r)
			return
		}
		proxy.ServeHTTP(w, r)
	}))
	t.Cleanup(server.Close)
	return server.URL
}

func TestFsckFindsDamage(t *testing.T) {
	t.Parallel()
	_, cfg, a := published(t, 520)
	for _, path := range []string{"tile/data/000", "tile/0/000", "tile/1/000.p/2", "issuer/" + names(t, cfg.Dir+"/issuer")[0]} {
		for _, damaged := range []bool{true, false} {
			flip(t, cfg.Dir+"/"+path, 21)
			if n, err := Fsck(t.Context(), cfg); (err != nil) != damaged || n != 520 {
				t.Errorf("%s altered: %v; fsck of %d entries: %v", path, damaged, n, err)
			}
		}
	}
	// The first tile of another log fits in itself, and not into this tree.
	other := newConfig(t)
	l := open(t, other)
	submit(t, l, a, 260)
	shutdown(t, l)
	for _, path := range []string{"/tile/data/000", "/tile/0/000"} {
		copyFile(t, other.Dir+path, cfg.Dir+path)
	}
	if _, err := Fsck(t.Context(), cfg); err == nil {
		t.Error("the entries of another log are accepted")
	}
}

func TestFsckChecksWhatNoCheckpointCovers(t *testing.T) {
	t.Parallel()
	a, cfg := newAuthority(t), newConfig(t)
	cfg.CheckpointInterval = maxCheckpointInterval
	growUnpublished(t, a, cfg)
	head, err := directory{cfg.Dir}.head()
	if err != nil {
		t.Fatal(err)
	}
	if n, err := Fsck(t.Context(), cfg); err != nil || n != head.Size {
		t.Fatalf("fsck read %d of %d entries: %v", n, head.Size, err)
	}
	flip(t, filepath.Join(cfg.Dir, tile{data: true, index: head.Size / tileWidth}.path(uint8(head.Size%tileWidth))), 200)
	if _, err := Fsck(t.Context(), cfg); err == nil {
		t.Error("an entry was altered, and fsck found nothing")
	}
}
