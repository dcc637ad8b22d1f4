// SPDX-License-Identifier: Apache-2.0

package embedded

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	"github.com/transparency-dev/tessera/ctonly"
	"golang.org/x/crypto/cryptobyte"
	"golang.org/x/mod/sumdb/note"

	"github.com/mayfly-ca/mayfly/ctlog/reader"
)

// signCheckpoint signs a checkpoint the way that Tessera does.
func signCheckpoint(t testing.TB, key *logKey, text string) []byte {
	t.Helper()
	raw, err := note.Sign(&note.Note{Text: text}, noteSigner{
		reader.NoteVerifier{Origin: testOrigin, Key: key.PublicKey},
		newTestLog(key, reader.EmptyTree()),
	})
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

const testOrigin = "log.example/2026"

const emptyCheckpoint = "log.example/2026\n0\n47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=\n"

func TestCheckpoint(t *testing.T) {
	t.Parallel()
	key := newKey(t)
	verifier := reader.NoteVerifier{Origin: testOrigin, Key: key.PublicKey}
	raw := signCheckpoint(t, key, emptyCheckpoint)
	c, err := reader.ParseCheckpoint(raw, verifier)
	if err != nil || c.Head != reader.EmptyTree() || c.Timestamp != 1_767_225_600_000 {
		t.Fatalf("%+v, %v", c, err)
	}
	if _, err := reader.ReadCheckpoint(raw, key.PublicKey); err != nil {
		t.Error(err)
	}
	_, line, _ := strings.Cut(string(raw), "\n\n")
	signed := base64.StdEncoding.EncodeToString(append(binary.BigEndian.AppendUint32(nil, verifier.KeyHash()), 0))
	for name, raw := range map[string]string{
		"empty": "", "no signature": emptyCheckpoint, "another log's": strings.ReplaceAll(string(raw), "log.example", "other.example"),
		"an extension line":        strings.Replace(string(raw), "\n\n", "\nextension\n\n", 1),
		"a leading zero":           strings.Replace(string(raw), "\n0\n", "\n00\n", 1),
		"no size":                  strings.Replace(string(raw), "\n0\n", "\n-1\n", 1),
		"another size":             strings.Replace(string(raw), "\n0\n", "\n1\n", 1),
		"a short root":             strings.Replace(string(raw), "47DE", "", 1),
		"another key's signature":  string(signCheckpoint(t, newKey(t), emptyCheckpoint)),
		"an empty signature":       emptyCheckpoint + "\n— " + testOrigin + " " + signed + "\n",
		"cut short":                string(raw[:len(raw)-1]),
		"a cut signature":          strings.Replace(string(raw), line, line[:len(line)-5]+"\n", 1),
		"larger than a checkpoint": string(raw) + strings.Repeat("— x eHh4eHh4\n", reader.MaxCheckpoint),
	} {
		if _, err := reader.ParseCheckpoint([]byte(raw), verifier); err == nil {
			t.Errorf("%s is accepted", name)
		}
	}
}

func newKey(t testing.TB) *logKey {
	t.Helper()
	key, _, err := generateKey()
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// newTestLog returns a log without files that may sign one tree.
func newTestLog(key *logKey, head reader.Head) *Log {
	l := newLog(Config{Origin: testOrigin, Now: func() time.Time { return time.UnixMilli(1_767_225_600_000) }}.withDefaults(), key)
	l.guard.newest.Store((&guardFile{}).at(head, time.Now()))
	return l
}

// TestNoteSignerAsksFirst: noteSigner signs nothing that the guard does not admit, and each time with a
// later timestamp.
func TestNoteSignerAsksFirst(t *testing.T) {
	t.Parallel()
	key := newKey(t)
	l := newTestLog(key, reader.EmptyTree())
	signer := noteSigner{l.verifier(), l}
	for i := range uint64(3) {
		signature, err := signer.Sign([]byte(emptyCheckpoint))
		if err != nil || binary.BigEndian.Uint64(signature) != 1_767_225_600_000+i {
			t.Errorf("%x, %v", signature, err)
		}
	}
	for _, text := range []string{"", "x", strings.Replace(emptyCheckpoint, "log", "other", 1), reader.Head{Size: 1}.Text(testOrigin)} {
		if _, err := signer.Sign([]byte(text)); err == nil {
			t.Errorf("%q is signed", text)
		}
	}
}

var sampleEntries = []ctonly.Entry{
	{Timestamp: 5, Certificate: []byte("certificate"), FingerprintsChain: [][sha256.Size]byte{{1}, {2}}},
	{Timestamp: 1<<64 - 1, IsPrecert: true, Certificate: make([]byte, 70000), Precertificate: []byte("precertificate"), IssuerKeyHash: make([]byte, 32)},
}

func TestTileLeafIsWhatTesseraWrites(t *testing.T) {
	t.Parallel()
	for _, e := range sampleEntries {
		const index = 1<<40 - 1
		data := e.LeafData(index)
		leaf, err := reader.ReadEntry(iotest.OneByteReader(bytes.NewReader(append(bytes.Clone(data), "more"...))))
		if err != nil || leaf.Size != len(data) || leaf.Index != index || !bytes.Equal(leaf.Hash(), e.MerkleLeafHash(index)) {
			t.Fatalf("%d bytes: %v, %v", len(data), leaf, err)
		}
		want := e.Certificate
		if e.IsPrecert {
			want = e.Precertificate
		}
		if !bytes.Equal(leaf.Certificate, want) || leaf.Timestamp != e.Timestamp || leaf.Precert != e.IsPrecert || !slices.Equal(leaf.Issuers, e.FingerprintsChain) {
			t.Errorf("%+v", leaf)
		}
		if _, err := reader.ReadEntry(bytes.NewReader(data[:len(data)-1])); err == nil {
			t.Error("an entry that ends early is accepted")
		}
	}
}

// An entry is served only at its own index.
func TestEntryAtAnotherIndex(t *testing.T) {
	t.Parallel()
	d := directory{t.TempDir()}
	path := filepath.Join(d.path, tile{data: true}.path(1))
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	for index := range uint64(2) {
		write(t, path, sampleEntries[0].LeafData(index))
		for _, err := range d.entries(0, 1, 1) {
			if errors.Is(err, errDamaged) != (index == 1) {
				t.Errorf("entry %d at 0: %v", index, err)
			}
		}
	}
}

// FuzzReadTileLeaf: an accepted entry consists of exactly its parsed parts.
func FuzzReadTileLeaf(f *testing.F) {
	for _, e := range sampleEntries {
		f.Add(e.LeafData(3))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		leaf, err := reader.ReadEntry(bytes.NewReader(data))
		if err != nil {
			return
		}
		b := cryptobyte.NewBuilder(nil)
		b.AddBytes(leaf.Timestamped)
		if leaf.Precert {
			b.AddUint24LengthPrefixed(func(b *cryptobyte.Builder) { b.AddBytes(leaf.Certificate) })
		}
		b.AddUint16LengthPrefixed(func(b *cryptobyte.Builder) {
			for _, fingerprint := range leaf.Issuers {
				b.AddBytes(fingerprint[:])
			}
		})
		again, err := b.Bytes()
		if err != nil || !bytes.Equal(again, data[:leaf.Size]) {
			t.Errorf("%x became %x: %v", data[:leaf.Size], again, err)
		}
	})
}

func FuzzParseCheckpoint(f *testing.F) {
	key := newKey(f)
	f.Add(signCheckpoint(f, key, emptyCheckpoint))
	f.Add([]byte(emptyCheckpoint))
	f.Fuzz(func(t *testing.T, raw []byte) {
		if c, err := reader.ParseCheckpoint(raw, reader.NoteVerifier{Origin: testOrigin, Key: key.PublicKey}); err == nil && c.Head != reader.EmptyTree() {
			t.Errorf("%q was read as %v", raw, c.Head)
		}
		if head, err := reader.ParseText(raw, testOrigin); err == nil && head.Text(testOrigin) != string(raw) {
			t.Errorf("%q was read as %v", raw, head)
		}
	})
}

func FuzzParseGuard(f *testing.F) {
	good, err := (&guardFile{Origin: "log.example/2026", LogID: make([]byte, 32)}).at(reader.EmptyTree(), time.Now()).marshal()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(good)
	f.Add([]byte(`{"tree_size": 1}`))
	f.Add(slices.Concat(seal(good), seal(good)))
	f.Add(slices.Concat(seal(good), seal([]byte(`{"later": 1}`))))
	f.Fuzz(func(t *testing.T, content []byte) {
		g, err := parseGuard(content)
		if err != nil {
			return
		}
		again, err := g.marshal()
		if err != nil {
			t.Skip(err) // a year that JSON cannot hold
		}
		for _, content := range [][]byte{slices.Concat(seal(again), seal(again)), slices.Concat(make([]byte, slotSize), seal(again))} {
			if h, err := parseGuard(content); len(again) < objectSize && (err != nil || h.head() != g.head()) {
				t.Errorf("%s in a slot became %s: %v", again, h.head(), err)
			}
		}
		if h, err := parseGuard(again); err != nil || h.head() != g.head() || h.Origin != g.Origin || !bytes.Equal(h.LogID, g.LogID) {
			t.Errorf("%s became %s: %v", content, again, err)
		}
	})
}

func FuzzParseTilePath(f *testing.F) {
	for _, path := range []string{"/tile/0/000", "/tile/5/x001/x234/067.p/255", "/tile/data/000.p/1", "/tile/0/../x"} {
		f.Add(path)
	}
	f.Fuzz(func(t *testing.T, path string) {
		tile, wide, ok := parseTilePath(path)
		if ok && (tile.level > maxTileLevel || wide < 1 || wide > tileWidth || tile.index >= 1<<40 || tile.data && tile.level != 0 ||
			strings.Contains(path, "..") || strings.ContainsFunc(path, func(r rune) bool { return r > 'z' || r < '.' })) {
			t.Errorf("%q: %v %d", path, tile, wide)
		}
	})
}
