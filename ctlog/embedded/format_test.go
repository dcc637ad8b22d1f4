// SPDX-License-Identifier: Apache-2.0

package embedded

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/google/certificate-transparency-go/x509"
	"github.com/google/go-cmp/cmp"
	"github.com/transparency-dev/tessera/ctonly"
	"golang.org/x/crypto/cryptobyte"
	"golang.org/x/mod/sumdb/note"

	"github.com/mayfly-ca/mayfly/certs"
)

// signCheckpoint signs a checkpoint the way that Tessera does.
func signCheckpoint(t testing.TB, key *logKey, origin, text string) []byte {
	t.Helper()
	raw, err := note.Sign(&note.Note{Text: text}, noteSigner{
		noteVerifier: noteVerifier{origin, key},
		admit:        func(treeHead) error { return nil },
		timestamp:    func() uint64 { return 1_767_225_600_000 },
	})
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

const emptyCheckpoint = "log.example/2026\n0\n47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=\n"

func TestCheckpoint(t *testing.T) {
	t.Parallel()
	const origin = "log.example/2026"
	key, _, err := generateKey()
	if err != nil {
		t.Fatal(err)
	}
	keyID := noteKeyID(origin, key.id)
	raw := signCheckpoint(t, key, origin, emptyCheckpoint)
	c, err := parseCheckpoint(raw, origin, keyID)
	if err != nil || c.head != emptyTree() || c.timestamp != 1_767_225_600_000 || !key.verifyTreeHead(c.timestamp, c.head, c.signed) {
		t.Fatalf("%+v, %v", c, err)
	}
	if key.verifyTreeHead(c.timestamp+1, c.head, c.signed) || key.verifyTreeHead(c.timestamp, treeHead{1, c.head.root}, c.signed) ||
		key.verifyTreeHead(c.timestamp, c.head, c.signed[1:]) || key.verifyTreeHead(c.timestamp, c.head, append(c.signed, 0)) {
		t.Error("a signature over something else verifies")
	}
	for _, test := range []struct{ name, raw, says string }{
		{"empty", "", "no signed note"},
		{"no signature", emptyCheckpoint, "no signed note"},
		{"another log's", strings.ReplaceAll(string(raw), "log.example", "other.example"), "it is of the log"},
		{"an extension line", strings.Replace(string(raw), "\n\n", "\nextension\n\n", 1), "three lines, this has 4"},
		{"a leading zero", strings.Replace(string(raw), "\n0\n", "\n00\n", 1), `"00" is no tree size`},
		{"no size", strings.Replace(string(raw), "\n0\n", "\n-1\n", 1), `"-1" is no tree size`},
		{"a short root", strings.Replace(string(raw), "47DE", "", 1), "is no root hash"},
		{"another key's signature", string(signCheckpoint(t, newKey(t), origin, emptyCheckpoint)), "no signature of this log's key"},
		{"cut short", string(raw[:len(raw)-1]), "no signed note"},
		{"huge", string(raw) + strings.Repeat("— x y\n", maxCheckpoint), "it has"},
	} {
		if _, err := parseCheckpoint([]byte(test.raw), origin, keyID); err == nil || !strings.Contains(err.Error(), test.says) {
			t.Errorf("%s: got %v, want %q", test.name, err, test.says)
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

// TestNoteSignerAsksFirst: noteSigner signs nothing that the guard does not admit.
func TestNoteSignerAsksFirst(t *testing.T) {
	t.Parallel()
	refused := errors.New("refused")
	var asked treeHead
	signer := noteSigner{
		noteVerifier: noteVerifier{"log.example/2026", newKey(t)},
		admit:        func(h treeHead) error { asked = h; return refused },
		timestamp:    func() uint64 { t.Error("a timestamp was taken"); return 0 },
	}
	if _, err := signer.Sign([]byte(emptyCheckpoint)); !errors.Is(err, refused) || asked != emptyTree() {
		t.Errorf("got %v for %v", err, asked)
	}
	for _, text := range []string{"", "x", strings.Replace(emptyCheckpoint, "log", "other", 1)} {
		if _, err := signer.Sign([]byte(text)); err == nil || errors.Is(err, refused) {
			t.Errorf("%q: got %v", text, err)
		}
	}
}

func TestTileLeafIsWhatTesseraWrites(t *testing.T) {
	t.Parallel()
	chain := [][sha256.Size]byte{{1}, {2}}
	for _, e := range []ctonly.Entry{
		{Timestamp: 5, Certificate: []byte("certificate"), FingerprintsChain: chain},
		{Timestamp: 5, IsPrecert: true, Certificate: []byte("tbs"), Precertificate: []byte("precertificate"), IssuerKeyHash: make([]byte, 32), FingerprintsChain: chain},
		{Timestamp: 1<<64 - 1, IsPrecert: true, Certificate: make([]byte, 70000), Precertificate: []byte("p"), IssuerKeyHash: make([]byte, 32)},
	} {
		const index = 1<<40 - 1
		data := e.LeafData(index)
		leaves, err := collectLeaves(append(bytes.Clone(data), "more"...), index, 1)
		if err != nil || leaves[0].size != len(data) {
			t.Fatalf("%d bytes: %v", len(data), err)
		}
		leaf := leaves[0]
		if !bytes.Equal(leaf.merkleTreeLeaf(), e.MerkleTreeLeaf(index)) || !bytes.Equal(leaf.hash(), e.MerkleLeafHash(index)) {
			t.Error("the leaf is another one than Tessera's")
		}
		want := e.Certificate
		if e.IsPrecert {
			want = e.Precertificate
		}
		if !bytes.Equal(leaf.certificate, want) || leaf.timestamp != e.Timestamp || leaf.precert != e.IsPrecert || len(leaf.fingerprints()) != len(e.FingerprintsChain) {
			t.Errorf("%+v", leaf)
		}
		if _, err := collectLeaves(data, 7, 1); err == nil {
			t.Error("an entry in a wrong place is accepted")
		}
		if _, err := collectLeaves(data, index, 2); err == nil {
			t.Error("a missing entry is accepted")
		}
	}
}

// collectLeaves reads in smaller pieces than a file ever returns.
func collectLeaves(data []byte, first uint64, count int) (leaves []*tileLeaf, err error) {
	for leaf, err := range readTileLeaves(iotest.OneByteReader(bytes.NewReader(data)), first, count) {
		if err != nil {
			return nil, err
		}
		leaves = append(leaves, leaf)
	}
	return leaves, nil
}

// FuzzReadTileLeaf: an accepted entry consists of exactly its parsed parts.
func FuzzReadTileLeaf(f *testing.F) {
	for _, e := range []ctonly.Entry{
		{Timestamp: 5, Certificate: []byte("certificate"), FingerprintsChain: [][32]byte{{1}}},
		{Timestamp: 5, IsPrecert: true, Certificate: []byte("tbs"), Precertificate: []byte("precertificate"), IssuerKeyHash: make([]byte, 32)},
	} {
		f.Add(e.LeafData(3))
	}
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, data []byte) {
		s := cryptobyte.String(data)
		leaf, err := readTileLeaf(&s)
		if err != nil {
			return
		}
		b := cryptobyte.NewBuilder(nil)
		b.AddBytes(leaf.timestamped)
		if leaf.precert {
			b.AddUint24LengthPrefixed(func(b *cryptobyte.Builder) { b.AddBytes(leaf.certificate) })
		}
		b.AddUint16LengthPrefixed(func(b *cryptobyte.Builder) { b.AddBytes(leaf.issuers) })
		again, err := b.Bytes()
		if err != nil || !bytes.Equal(again, data[:len(data)-len(s)]) {
			t.Errorf("%x became %x: %v", data[:len(data)-len(s)], again, err)
		}
	})
}

func FuzzParseCheckpoint(f *testing.F) {
	const origin = "log.example/2026"
	key := newKey(f)
	keyID := noteKeyID(origin, key.id)
	f.Add(signCheckpoint(f, key, origin, emptyCheckpoint))
	f.Add([]byte(emptyCheckpoint))
	f.Fuzz(func(t *testing.T, raw []byte) {
		c, err := parseCheckpoint(raw, origin, keyID)
		if err != nil {
			return
		}
		text := raw[:bytes.LastIndex(raw, []byte("\n\n"))+1]
		if signedText(c.origin, c.head) != string(text) {
			t.Errorf("%q was read as %v", text, c.head)
		}
	})
}

func signedText(origin string, h treeHead) string {
	size, root, _ := strings.Cut(strings.TrimPrefix(h.String(), "size "), " and root ")
	return origin + "\n" + size + "\n" + root + "\n"
}

func FuzzParseGuard(f *testing.F) {
	empty := emptyTree()
	good, err := guardFile{Origin: "log.example/2026", LogID: make([]byte, 32), RootHash: empty.root[:]}.marshal()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(good)
	f.Add([]byte(`{"tree_size": 1}`))
	f.Fuzz(func(t *testing.T, content []byte) {
		g, err := parseGuard(content)
		if err != nil {
			return
		}
		again, err := g.marshal()
		if err != nil {
			t.Skip(err) // a year that JSON cannot hold
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
		data, level, index, wide, ok := parseTilePath(path)
		if !ok {
			return
		}
		if level > maxTileLevel || wide < 1 || wide > tileWidth || index >= 1<<40 || data && level != 0 ||
			strings.Contains(path, "..") || strings.ContainsFunc(path, func(r rune) bool { return r > 'z' || r < '.' }) {
			t.Errorf("%q: %v %d %d %d", path, data, level, index, wide)
		}
	})
}

func TestWithoutPoison(t *testing.T) {
	t.Parallel()
	a := newAuthority(t)
	tbs := a.tbs(t, certs.SAN{Kind: certs.SANUserName, Value: "user!example.com"}, "https://issuer.example")
	got, poisoned, err := withoutPoison(tbs.Precertificate())
	if err != nil || !poisoned || !bytes.Equal(got, tbs.Logged()) {
		t.Errorf("poisoned %v, %v", poisoned, err)
	}
	// The independent implementation: certificate-transparency-go.
	want, err := x509.RemoveCTPoison(tbs.Precertificate())
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	again, poisoned, err := withoutPoison(got)
	if err != nil || poisoned || !bytes.Equal(again, got) {
		t.Errorf("a TBSCertificate without poison: %v, %v", poisoned, err)
	}
	twice := bytes.Replace(tbs.Precertificate(), []byte(poisonExtension), []byte(poisonExtension+poisonExtension), 1)
	if _, _, err := withoutPoison(twice); err == nil {
		t.Error("two poisons with wrong lengths are accepted")
	}
	if _, _, err := dropPoison(sequence(t, poisonExtension+poisonExtension)); err == nil {
		t.Error("two poisons are accepted")
	}
	notCritical := strings.Replace(poisonExtension[2:], "\x01\x01\xff", "", 1)
	if _, poisoned, err := dropPoison(sequence(t, "\x30"+string(rune(len(notCritical)))+notCritical)); poisoned || err != nil {
		t.Errorf("a poison that is not critical: %v, %v", poisoned, err)
	}
}

func sequence(t *testing.T, content string) []byte {
	t.Helper()
	if len(content) > 127 {
		t.Fatal("too long")
	}
	return append([]byte{0x30, byte(len(content))}, content...)
}

func FuzzWithoutPoison(f *testing.F) {
	a := newAuthority(f)
	tbs := a.tbs(f, certs.SAN{Kind: certs.SANURI, Value: "https://build.example"}, "https://issuer.example")
	f.Add(tbs.Precertificate())
	f.Add(tbs.Logged())
	f.Fuzz(func(t *testing.T, der []byte) {
		got, poisoned, err := withoutPoison(der)
		if err != nil {
			return
		}
		if poisoned && bytes.Contains(got, []byte(poisonExtension)) && !bytes.Contains(der[len(poisonExtension):], []byte(poisonExtension)) {
			t.Errorf("%x still has its poison", got)
		}
		if again, poisoned, err := withoutPoison(got); err == nil && (poisoned || !bytes.Equal(again, got)) {
			t.Errorf("removing twice gives %x and then %x", got, again)
		}
	})
}

func TestSCTExtension(t *testing.T) {
	t.Parallel()
	e := ctonly.Entry{Certificate: []byte("x")}
	const index = 0x0102030405
	if want := e.MerkleTreeLeaf(index); !bytes.HasSuffix(want, append([]byte{0, 8}, leafIndexExtension(index)...)) {
		t.Errorf("%x does not end with %x", want, leafIndexExtension(index))
	}
	if got := base64.StdEncoding.EncodeToString(leafIndexExtension(5)); got != "AAAFAAAAAAU=" {
		t.Errorf("the extension is %s", got)
	}
}
