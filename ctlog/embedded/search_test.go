// SPDX-License-Identifier: Apache-2.0

package embedded

import (
	"context"
	"crypto/x509"
	"errors"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/mayfly-ca/mayfly/certs"
	"github.com/mayfly-ca/mayfly/ctlog"
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
	at := func(hours int) time.Time { return time.Date(2026, 1, 1, hours, 0, 0, 0, time.UTC) }
	for _, test := range []struct {
		name string
		q    Query
		want []uint64
	}{
		{"everything", Query{}, []uint64{4, 3, 2, 1, 0}},
		{"an identity", Query{Identity: "alice@example.com"}, []uint64{4, 0}},
		{"a URI", Query{Identity: "https://build.example/workflow"}, []uint64{1}},
		{"a part of a URI", Query{Identity: "https://build.example/"}, nil},
		{"a user name", Query{Identity: "alice!example.com"}, []uint64{2}},
		{"an issuer", Query{Issuer: "https://two.example"}, []uint64{4, 2, 1}},
		{"an identity of an issuer", Query{Identity: "alice@example.com", Issuer: "https://one.example"}, []uint64{0}},
		{"a serial number", Query{Serial: serials[3]}, []uint64{3}},
		{"a part of a serial number", Query{Serial: serials[3][1:]}, nil},
		{"nobody", Query{Identity: "bob@example.com"}, nil},
		{"since", Query{Since: at(4)}, []uint64{4, 3, 2}},
	} {
		var got []uint64
		for found, err := range Search(t.Context(), cfg, test.q) {
			if err != nil {
				t.Fatal(err)
			}
			got = append(got, found.Index)
			if found.SAN != sans[found.Index] || found.Extensions[certs.IssuerV2] != issuers[found.Index] {
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
	_, cfg, _ := published(t, 520)
	next := uint64(520)
	for e, err := range Search(t.Context(), cfg, Query{}) {
		if next--; err != nil || e.Index != next {
			t.Fatalf("got entry %v, %v, want %d", e, err, next)
		}
		if next == 3 {
			break
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	for _, err := range Search(ctx, cfg, Query{}) {
		if !errors.Is(err, context.Canceled) {
			t.Errorf("got %v", err)
		}
	}
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
	if n, err := Fsck(t.Context(), cfg); err != nil || n != head.size {
		t.Fatalf("fsck read %d of %d entries: %v", n, head.size, err)
	}
	flip(t, filepath.Join(cfg.Dir, tile{data: true, index: head.size / tileWidth}.path(uint8(head.size%tileWidth))), 200)
	if _, err := Fsck(t.Context(), cfg); err == nil {
		t.Error("an entry was altered, and fsck found nothing")
	}
}
