// SPDX-License-Identifier: Apache-2.0

package reader

import (
	"bytes"
	"cmp"
	"context"
	"crypto/x509"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"slices"
	"testing"
	"time"

	"github.com/transparency-dev/merkle/compact"
	"github.com/transparency-dev/merkle/rfc6962"
	"github.com/transparency-dev/tessera/ctonly"

	"github.com/mayfly-ca/mayfly/certs"
	"github.com/mayfly-ca/mayfly/test/testlog"
)

// indexed is a log in memory with an index.
type indexed struct {
	entries []*Entry
	files   map[uint64][]byte
	broken  error // of Write
	read    []uint64
}

// newIndexed returns a log of size entries: entry 7 is of user 000007, and so on. Their serial numbers end in 7
// and so on, and the issuers alternate.
func newIndexed(t testing.TB, size int) *indexed {
	t.Helper()
	a := testlog.NewAuthority(t, time.Now)
	var templates [2][]byte
	for i, issuer := range []string{"https://one.example", "https://two.example"} {
		templates[i] = a.DraftFor(t, certs.SAN{Kind: certs.SANEmail, Value: "user-000000@example.com"}, issuer).Submission.Chain[0]
	}
	log := &indexed{files: map[uint64][]byte{}}
	for i := range size {
		der := bytes.Replace(templates[i%2], []byte("user-000000"), fmt.Appendf(nil, "user-%06d", i), 1)
		c, err := x509.ParseCertificate(der)
		if err != nil {
			t.Fatal(err)
		}
		serial := c.SerialNumber.Bytes()
		binary.BigEndian.PutUint32(der[bytes.Index(der, serial)+len(serial)-4:], uint32(i))
		leaf := (&ctonly.Entry{Timestamp: uint64(1000 * i), Certificate: der}).LeafData(uint64(i))
		entry, err := ReadEntry(bytes.NewReader(leaf))
		if err != nil {
			t.Fatal(err)
		}
		log.entries = append(log.entries, entry)
	}
	return log
}

func (l *indexed) source(index bool) *Source {
	s := &Source{Head: Head{Size: uint64(len(l.entries))}, Parallel: 1, Disorder: time.Minute}
	s.Read = func(_ context.Context, first, end uint64) ([]*Entry, error) {
		l.read = append(l.read, first)
		return l.entries[first:end], nil
	}
	if index {
		s.Index = &Index{
			Read: func(segment uint64) ([]byte, error) {
				if content, ok := l.files[segment]; ok {
					return content, nil
				}
				return nil, fs.ErrNotExist
			},
			Write: func(segment uint64, content []byte) error {
				if l.broken == nil {
					l.files[segment] = content
				}
				return l.broken
			},
			Node: func(segment uint64) ([]byte, error) {
				tree := (&compact.RangeFactory{Hash: rfc6962.DefaultHasher.HashChildren}).NewEmptyRange(0)
				for _, entry := range l.entries[segment*Segment : (segment+1)*Segment] {
					_ = tree.Append(entry.Hash(), nil)
				}
				return tree.GetRootHash(nil)
			},
		}
	}
	return s
}

// search returns the numbers of the entries that match q, and how many batches were read.
func (l *indexed) search(t *testing.T, index bool, q Query) (found []uint64, batches int) {
	t.Helper()
	l.read = nil
	for e, err := range l.source(index).Search(t.Context(), q) {
		if err != nil {
			t.Fatal(err)
		}
		found = append(found, e.Index)
	}
	return found, len(l.read)
}

func queries(l *indexed) map[string]Query {
	serial := func(i int) []byte {
		c, _ := x509.ParseCertificate(l.entries[i].Certificate)
		return c.SerialNumber.Bytes()
	}
	return map[string]Query{
		"newest":    {Identity: "user-008300@example.com"},
		"middle":    {Identity: "user-005000@example.com"},
		"oldest":    {Identity: "user-000000@example.com"},
		"nobody":    {Identity: "other@example.com"},
		"part":      {Identity: "user-005000@example"},
		"pattern":   {Identity: "user-00500*@example.com"},
		"issuer":    {Issuer: "https://one.example"},
		"no issuer": {Issuer: "https://three.example"},
		"both":      {Identity: "user-00400*", Issuer: "*two*"},
		"serial":    {Serial: serial(4097)},
		"no serial": {Serial: append(serial(1)[1:], 7)},
		"since":     {Identity: "user-00[4-8]*", Since: time.Unix(6000, 0)},
		"until":     {Identity: "*@example.com", Since: time.Unix(4000, 0), Until: time.Unix(4200, 0)},
	}
}

// TestIndex: in any state, the index changes which batches are read, and not what is found; and a complete search
// repairs it.
func TestIndex(t *testing.T) {
	t.Parallel()
	log := newIndexed(t, 2*Segment+300)
	if found, batches := log.search(t, true, queries(log)["nobody"]); found != nil || batches != 34 {
		t.Fatalf("found %v in %d batches", found, batches)
	}
	good := maps.Clone(log.files)
	states := map[string]func(files map[uint64][]byte){
		"complete": func(map[uint64][]byte) {},
		"missing":  func(files map[uint64][]byte) { clear(files) },
		"behind":   func(files map[uint64][]byte) { delete(files, 1) },
		"foreign":  func(files map[uint64][]byte) { files[1] = files[0] },
		"longer":   func(files map[uint64][]byte) { files[0] = append(slices.Clone(files[0]), 0); files[2] = files[1] },
		"empty":    func(files map[uint64][]byte) { files[0] = nil },
		"torn":     func(files map[uint64][]byte) { files[1] = files[1][:len(files[1])*2/3] },
		"altered": func(files map[uint64][]byte) {
			files[1] = bytes.Replace(files[1], []byte("user-005000"), []byte("user-995000"), 1)
		},
		"zeros": func(files map[uint64][]byte) { files[0] = make([]byte, len(files[0])) },
	}
	for state, change := range states {
		for name, q := range queries(log) {
			if state != "complete" && name != "middle" && name != "both" && name != "no serial" {
				continue
			}
			log.files = maps.Clone(good)
			change(log.files)
			want, all := log.search(t, false, q)
			got, batches := log.search(t, true, q)
			if !slices.Equal(got, want) || batches > all {
				t.Errorf("%s, %s: found %v in %d batches; %v in %d without the index", state, name, got, batches, want, all)
			}
			if state == "complete" && batches > 4+max(1, len(want)) { // with Since, one for each segment
				t.Errorf("%s: the index left %d batches for %d certificates", name, batches, len(want))
			}
			if q.Since.IsZero() && (!bytes.Equal(log.files[0], good[0]) || !bytes.Equal(log.files[1], good[1])) {
				t.Errorf("%s, %s: the index is not repaired", state, name)
			}
		}
	}
}

// TestAlteredIndex: no altered byte and no cut passes.
func TestAlteredIndex(t *testing.T) {
	t.Parallel()
	node := make([]byte, 32)
	good := marshalIndex(node, &[segmentBatches][]byte{2: []byte("user@example.com")})
	for i := range good {
		altered := slices.Clone(good)
		altered[i] ^= 1
		_, err := parseIndex(altered, node)
		if _, errCut := parseIndex(good[:i], node); err == nil || errCut == nil {
			t.Errorf("byte %d altered: %v; cut there: %v", i, err, errCut)
		}
	}
}

// TestIndexIsNotNecessary: a search that cannot write the index states it once; entries that are not those of the
// tree get no index.
func TestIndexIsNotNecessary(t *testing.T) {
	t.Parallel()
	log := newIndexed(t, 2*Segment)
	failure := errors.New("read-only")
	log.broken = failure
	for range 2 {
		var warnings []error
		q := Query{Identity: "user-004000@example.com", Unindexed: func(err error) { warnings = append(warnings, err) }}
		found, batches := log.search(t, true, q)
		if !slices.Equal(found, []uint64{4000}) || batches != 32 || len(warnings) != 1 || !errors.Is(warnings[0], failure) {
			t.Errorf("found %v in %d batches, %v", found, batches, warnings)
		}
	}
	log.broken = nil
	// A listing, and a search that ends early, write nothing.
	log.search(t, true, Query{})
	for range log.source(true).Search(t.Context(), Query{Identity: "*"}) {
		break
	}
	if len(log.files) != 0 {
		t.Errorf("%d files were written", len(log.files))
	}
	source := log.source(true)
	node := source.Index.Node
	source.Index.Node = func(segment uint64) ([]byte, error) {
		if segment == 0 {
			return nil, errors.New("the tile is missing")
		}
		return node(segment - 1)
	}
	var warning error
	n := 0
	for _, err := range source.Search(t.Context(), Query{Identity: "user-00*", Unindexed: func(err error) { warning = err }}) {
		if n++; err != nil {
			t.Fatal(err)
		}
	}
	if n != 2*Segment || len(log.files) != 0 || warning == nil {
		t.Errorf("a damaged log: found %d, wrote %d files, %v", n, len(log.files), warning)
	}
}

// TestLargeTextsAreNotIndexed: a segment whose texts exceed the bound of a file is always read.
func TestLargeTextsAreNotIndexed(t *testing.T) {
	t.Parallel()
	log := newIndexed(t, Segment)
	for i, entry := range log.entries {
		entry.Certificate = append([]byte("no certificate"), bytes.Repeat([]byte{byte(i), byte(i >> 8)}, 1024)...)
	}
	q := Query{Identity: "other@example.com", Unindexed: func(err error) { t.Error(err) }}
	if found, batches := log.search(t, true, q); found != nil || batches != segmentBatches || len(log.files) != 0 {
		t.Errorf("found %v in %d batches, wrote %d files", found, batches, len(log.files))
	}
}

// FuzzIndex: a file is read completely or refused.
func FuzzIndex(f *testing.F) {
	node := make([]byte, 32)
	texts := new([segmentBatches][]byte)
	f.Add(marshalIndex(node, texts))
	texts[3] = []byte("user@example.com")
	f.Add(marshalIndex(node, texts))
	f.Add(append([]byte(indexMagic), node...))
	f.Fuzz(func(t *testing.T, content []byte) {
		for _, sum := range []bool{false, true} {
			if sum && len(content) >= 4 { // beyond the checksum
				content = binary.BigEndian.AppendUint32(slices.Clone(content[:len(content)-4]), checksum(content[:len(content)-4]))
			}
			texts, err := parseIndex(content, node)
			if err == nil && !bytes.Equal(marshalIndex(node, texts), content) {
				t.Errorf("%x became %x", content, texts)
			}
		}
	})
}

// FuzzSearched: the index holds what a search of the entry itself compares.
func FuzzSearched(f *testing.F) {
	a := testlog.NewAuthority(f, time.Now)
	for _, san := range []certs.SAN{
		{Kind: certs.SANEmail, Value: "person@example.com"},
		{Kind: certs.SANURI, Value: "https://build.example/workflow"},
		{Kind: certs.SANUserName, Value: "person!example.com"},
	} {
		f.Add(a.DraftFor(f, san, "https://issuer.example").Submission.Chain[0])
	}
	f.Add(a.Root.Raw)
	f.Fuzz(func(t *testing.T, der []byte) {
		text := bytes.Join(searched(der), nil)
		e := &Found{DER: der}
		if !(&Query{}).matches(e) {
			return
		}
		q := Query{Identity: e.SAN.Value, Issuer: cmp.Or(e.Issuer, "*"), Serial: e.Certificate.SerialNumber.Bytes()}
		if again := (&Query{}).matches(&Found{DER: der}); !again || !q.mayMatch(text) {
			t.Errorf("%x: the index would hide %+v", der, q)
		}
	})
}
