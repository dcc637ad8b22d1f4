// SPDX-License-Identifier: Apache-2.0

package rekor

//lint:file-ignore SA1019 Rekor has deprecated dsse entries, and npm's sigstore still sends them

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"

	common "github.com/sigstore/protobuf-specs/gen/pb-go/common/v1"
	dssepb "github.com/sigstore/protobuf-specs/gen/pb-go/dsse"
	rekorv1 "github.com/sigstore/protobuf-specs/gen/pb-go/rekor/v1"
	rekorpb "github.com/sigstore/rekor-tiles/v2/pkg/generated/protobuf"
	"github.com/sigstore/rekor-tiles/v2/pkg/note"
	"github.com/sigstore/rekor-tiles/v2/pkg/verify"
	"github.com/sigstore/sigstore/pkg/signature"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
)

const origin = "127.0.0.1"

func newKey(t testing.TB) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func open(t *testing.T, dir string, key *ecdsa.PrivateKey) *Log {
	t.Helper()
	l, err := Open(t.Context(), Config{Dir: dir, Origin: origin, Key: key})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close(context.Background()) })
	return l
}

// signed returns content's signature with a new key, together with the key as the verifier.
func signed(t testing.TB, content []byte) *rekorpb.Signature {
	t.Helper()
	digest := sha256.Sum256(content)
	return signedBy(t, newKey(t), common.PublicKeyDetails_PKIX_ECDSA_P256_SHA_256, digest[:], crypto.SHA256)
}

func signedBy(t testing.TB, key crypto.Signer, details common.PublicKeyDetails, digest []byte, hash crypto.Hash) *rekorpb.Signature {
	t.Helper()
	sig, err := key.Sign(rand.Reader, digest, hash)
	if err != nil {
		t.Fatal(err)
	}
	spki, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		t.Fatal(err)
	}
	return &rekorpb.Signature{Content: sig, Verifier: &rekorpb.Verifier{
		KeyDetails: details, Verifier: &rekorpb.Verifier_PublicKey{PublicKey: &rekorpb.PublicKey{RawBytes: spki}},
	}}
}

func hashedRekord(t testing.TB) *rekorpb.CreateEntryRequest {
	t.Helper()
	content := []byte("content")
	digest := sha256.Sum256(content)
	return &rekorpb.CreateEntryRequest{Spec: &rekorpb.CreateEntryRequest_HashedRekordRequestV002{
		HashedRekordRequestV002: &rekorpb.HashedRekordRequestV002{Digest: digest[:], Signature: signed(t, content)},
	}}
}

func dsseRequest(t testing.TB) *rekorpb.CreateEntryRequest {
	t.Helper()
	const kind, payload = "application/vnd.in-toto+json", `{"a":1}`
	s := signed(t, []byte("DSSEv1 28 "+kind+" 7 "+payload))
	return &rekorpb.CreateEntryRequest{Spec: &rekorpb.CreateEntryRequest_DsseRequestV002{
		DsseRequestV002: &rekorpb.DSSERequestV002{
			Envelope: &dssepb.Envelope{PayloadType: kind, Payload: []byte(payload),
				Signatures: []*dssepb.Signature{{Sig: s.GetContent()}}},
			Verifiers: []*rekorpb.Verifier{signed(t, nil).GetVerifier(), s.GetVerifier()},
		},
	}}
}

func encode(t testing.TB, m proto.Message) []byte {
	t.Helper()
	text, err := protojson.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	return text
}

func post(l http.Handler, body []byte) *httptest.ResponseRecorder {
	recorder := httptest.NewRecorder()
	l.ServeHTTP(recorder, httptest.NewRequest(http.MethodPost, "/api/v2/log/entries", bytes.NewReader(body)))
	return recorder
}

// create adds an entry and verifies its proof with Rekor's own client library.
func create(t *testing.T, l *Log, key *ecdsa.PrivateKey, request *rekorpb.CreateEntryRequest) (*rekorv1.TransparencyLogEntry, *rekorpb.Entry) {
	t.Helper()
	answer := post(l, encode(t, request))
	if answer.Code != http.StatusCreated {
		t.Fatalf("%d: %s", answer.Code, answer.Body)
	}
	var entry rekorv1.TransparencyLogEntry
	if err := protojson.Unmarshal(answer.Body.Bytes(), &entry); err != nil {
		t.Fatal(err)
	}
	verifier, err := signature.LoadVerifier(key.Public(), crypto.SHA256)
	if err != nil {
		t.Fatal(err)
	}
	checkpoints, err := note.NewNoteVerifier(origin, verifier)
	if err != nil {
		t.Fatal(err)
	}
	if err := verify.VerifyLogEntry(&entry, checkpoints); err != nil {
		t.Fatal(err)
	}
	var body rekorpb.Entry
	if err := protojson.Unmarshal(entry.GetCanonicalizedBody(), &body); err != nil {
		t.Fatal(err)
	}
	if body.GetKind() != entry.GetKindVersion().GetKind() || body.GetApiVersion() != entry.GetKindVersion().GetVersion() {
		t.Errorf("kind %v, body %s", entry.GetKindVersion(), entry.GetCanonicalizedBody())
	}
	return &entry, &body
}

func TestEntriesAreIncluded(t *testing.T) {
	t.Parallel()
	key := newKey(t)
	dir := t.TempDir()
	l := open(t, dir, key)

	request := hashedRekord(t)
	entry, body := create(t, l, key, request)
	for path, want := range map[string]struct {
		status int
		begins string
	}{
		"/api/v2/checkpoint":                            {200, "127.0.0.1\n1\n"},
		"/api/v2/tile/0/000.p/1":                        {200, string(entry.GetInclusionProof().GetRootHash())},
		"/api/v2/tile/entries/000.p/1":                  {200, ""},
		"/api/v2/tile/0/001":                            {404, ""},
		"/api/v2/tile/0/../../treeState":                {307, ""}, // to a cleaned path, which leads nowhere
		"/api/v2/tile/0/%2e%2e/%2e%2e/.state/treeState": {404, ""},
		"/api/v2/.state/treeState":                      {404, ""},
		"/healthz":                                      {200, `{"status":"SERVING"}`},
	} {
		recorder := httptest.NewRecorder()
		l.ServeHTTP(recorder, httptest.NewRequest(http.MethodGet, path, nil))
		if recorder.Code != want.status || !strings.HasPrefix(recorder.Body.String(), want.begins) {
			t.Errorf("%s: %d %q", path, recorder.Code, recorder.Body)
		}
	}
	got := body.GetSpec().GetHashedRekordV002()
	if want := request.GetHashedRekordRequestV002(); !bytes.Equal(got.GetData().GetDigest(), want.GetDigest()) || !proto.Equal(got.GetSignature(), want.GetSignature()) {
		t.Errorf("logged %v of %v", got, want)
	}

	request = dsseRequest(t)
	_, body = create(t, l, key, request)
	envelope := request.GetDsseRequestV002().GetEnvelope()
	hash := sha256.Sum256(envelope.GetPayload())
	logged := body.GetSpec().GetDsseV002()
	if !bytes.Equal(logged.GetPayloadHash().GetDigest(), hash[:]) || len(logged.GetSignatures()) != 1 ||
		!bytes.Equal(logged.GetSignatures()[0].GetContent(), envelope.GetSignatures()[0].GetSig()) ||
		!proto.Equal(logged.GetSignatures()[0].GetVerifier(), request.GetDsseRequestV002().GetVerifiers()[1]) {
		t.Errorf("logged %v of %v", logged, request)
	}

	var all sync.WaitGroup
	for range 20 {
		all.Go(func() { create(t, l, key, hashedRekord(t)) })
	}
	all.Wait()

	// A log that is opened again continues.
	if err := l.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	if answer := post(l, encode(t, request)); answer.Code != http.StatusServiceUnavailable {
		t.Errorf("a closed log answers %d", answer.Code)
	}
	entry, _ = create(t, open(t, dir, key), key, hashedRekord(t))
	if entry.GetLogIndex() != 22 || entry.GetInclusionProof().GetTreeSize() != 23 {
		t.Errorf("index %d in a tree of %d", entry.GetLogIndex(), entry.GetInclusionProof().GetTreeSize())
	}
}

func TestRefusesEntries(t *testing.T) {
	t.Parallel()
	key := newKey(t)
	l := open(t, t.TempDir(), key)
	spoiled := func(spoil func(h *rekorpb.HashedRekordRequestV002)) []byte {
		r := hashedRekord(t)
		spoil(r.GetHashedRekordRequestV002())
		return encode(t, r)
	}
	spoiledDSSE := func(spoil func(d *rekorpb.DSSERequestV002)) []byte {
		r := dsseRequest(t)
		spoil(r.GetDsseRequestV002())
		return encode(t, r)
	}
	_, edKey, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	pure := func(digest []byte) *rekorpb.Signature {
		return signedBy(t, edKey, common.PublicKeyDetails_PKIX_ED25519, digest, 0)
	}
	for name, body := range map[string][]byte{
		"nothing":           nil,
		"no JSON":           []byte("{"),
		"neither kind":      []byte("{}"),
		"too much":          append(encode(t, hashedRekord(t)), bytes.Repeat([]byte(" "), maxRequest)...),
		"a changed digest":  spoiled(func(h *rekorpb.HashedRekordRequestV002) { h.Digest[0] ^= 1 }),
		"a short digest":    spoiled(func(h *rekorpb.HashedRekordRequestV002) { h.Digest = h.Digest[1:] }),
		"no signature":      spoiled(func(h *rekorpb.HashedRekordRequestV002) { h.Signature = nil }),
		"no verifier":       spoiled(func(h *rekorpb.HashedRekordRequestV002) { h.Signature.Verifier = nil }),
		"another key":       spoiled(func(h *rekorpb.HashedRekordRequestV002) { h.Signature.Verifier = signed(t, nil).GetVerifier() }),
		"no key":            spoiled(func(h *rekorpb.HashedRekordRequestV002) { h.Signature.Verifier.GetPublicKey().RawBytes = []byte("x") }),
		"a pure Ed25519":    spoiled(func(h *rekorpb.HashedRekordRequestV002) { h.Signature = pure(h.GetDigest()) }),
		"the same in DSSE":  spoiledDSSE(func(d *rekorpb.DSSERequestV002) { d.Verifiers[1] = pure(nil).GetVerifier() }),
		"a changed payload": spoiledDSSE(func(d *rekorpb.DSSERequestV002) { d.Envelope.Payload[0] ^= 1 }),
		"another type":      spoiledDSSE(func(d *rekorpb.DSSERequestV002) { d.Envelope.PayloadType += "x" }),
		"no verifiers":      spoiledDSSE(func(d *rekorpb.DSSERequestV002) { d.Verifiers = nil }),
		"no signatures":     spoiledDSSE(func(d *rekorpb.DSSERequestV002) { d.Envelope.Signatures = nil }),
		"no envelope":       spoiledDSSE(func(d *rekorpb.DSSERequestV002) { d.Envelope = nil }),
		"a second signature": spoiledDSSE(func(d *rekorpb.DSSERequestV002) {
			d.Envelope.Signatures = append(d.Envelope.Signatures, &dssepb.Signature{Sig: []byte("x")})
		}),
		"many signatures": spoiledDSSE(func(d *rekorpb.DSSERequestV002) {
			for range maxSignatures {
				d.Envelope.Signatures = append(d.Envelope.Signatures, d.GetEnvelope().GetSignatures()[0])
			}
		}),
	} {
		answer := post(l, body)
		var said struct{ Message string }
		if err := json.Unmarshal(answer.Body.Bytes(), &said); err != nil || answer.Code != http.StatusBadRequest || said.Message == "" {
			t.Errorf("%s: %d, %v: %s", name, answer.Code, err, answer.Body)
		}
	}
	if entry, _ := create(t, l, key, hashedRekord(t)); entry.GetLogIndex() != 0 {
		t.Errorf("%d refused entries are in the log", entry.GetLogIndex())
	}
}

func FuzzParseRequest(f *testing.F) {
	f.Add(encode(f, hashedRekord(f)))
	f.Add(encode(f, dsseRequest(f)))
	f.Add([]byte(`{"dsseRequestV002":{"envelope":{},"verifiers":[{}]}}`))
	f.Fuzz(func(t *testing.T, body []byte) {
		entry, err := parseRequest(body)
		if err != nil {
			return
		}
		first, err := canonical(entry)
		if err != nil {
			t.Fatal(err)
		}
		var again rekorpb.Entry
		if err := protojson.Unmarshal(first, &again); err != nil {
			t.Fatal(err)
		}
		if second, err := canonical(&again); err != nil || !bytes.Equal(first, second) {
			t.Fatalf("%s\nbecame\n%s, %v", first, second, err)
		}
	})
}
