// SPDX-License-Identifier: Apache-2.0

package tsa

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/json"
	"math/big"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/digitorus/timestamp"
)

var now = time.Date(2026, 5, 6, 7, 8, 9, 0, time.UTC)

func newAuthority(t testing.TB) *Authority {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	ders, err := NewChain(key, now)
	if err != nil {
		t.Fatal(err)
	}
	var chain []*x509.Certificate
	for _, der := range ders {
		c, err := x509.ParseCertificate(der)
		if err != nil {
			t.Fatal(err)
		}
		chain = append(chain, c)
	}
	a, err := New(chain, key, func() time.Time { return now })
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func request(t testing.TB, hash crypto.Hash, message []byte, certificates bool) []byte {
	t.Helper()
	h := hash.New()
	h.Write(message)
	der, err := (&timestamp.Request{HashAlgorithm: hash, HashedMessage: h.Sum(nil), Nonce: big.NewInt(42), Certificates: certificates}).Marshal()
	if err != nil {
		t.Fatal(err)
	}
	return der
}

func ask(a *Authority, body []byte) *httptest.ResponseRecorder {
	request := httptest.NewRequest(http.MethodPost, "/", bytes.NewReader(body))
	request.Header.Set("Content-Type", "application/timestamp-query")
	if bytes.HasPrefix(body, []byte("{")) {
		request.Header.Set("Content-Type", "application/json; charset=utf-8")
	}
	recorder := httptest.NewRecorder()
	a.ServeHTTP(recorder, request)
	return recorder
}

func TestTimestamps(t *testing.T) {
	t.Parallel()
	a := newAuthority(t)
	roots := x509.NewCertPool()
	roots.AddCert(a.chain[1])
	if _, err := a.chain[0].Verify(x509.VerifyOptions{Roots: roots, CurrentTime: now, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageTimeStamping}}); err != nil {
		t.Fatal(err)
	}
	for _, hash := range []crypto.Hash{crypto.SHA256, crypto.SHA384, crypto.SHA512} {
		answer := ask(a, request(t, hash, []byte("message"), true))
		if answer.Code != http.StatusCreated || answer.Header().Get("Content-Type") != "application/timestamp-reply" {
			t.Fatalf("%d %s", answer.Code, answer.Body)
		}
		stamp, err := timestamp.ParseResponse(answer.Body.Bytes()) // verifies the signature
		if err != nil {
			t.Fatal(err)
		}
		if !stamp.Time.Equal(now) || stamp.Nonce.Int64() != 42 || stamp.HashAlgorithm != hash || stamp.SerialNumber.Sign() <= 0 {
			t.Errorf("%+v", stamp)
		}
		if len(stamp.Certificates) == 0 || !stamp.Certificates[0].Equal(a.chain[0]) {
			t.Errorf("%d certificates", len(stamp.Certificates))
		}
	}
	// sigstore-js sends requests in JSON.
	digest := sha256.Sum256([]byte("x"))
	body, err := json.Marshal(map[string]any{"artifactHash": digest[:], "hashAlgorithm": "sha256", "nonce": 7, "certificates": true})
	if err != nil {
		t.Fatal(err)
	}
	stamp, err := timestamp.ParseResponse(ask(a, body).Body.Bytes())
	if err != nil || !bytes.Equal(stamp.HashedMessage, digest[:]) || stamp.Nonce.Int64() != 7 || len(stamp.Certificates) == 0 {
		t.Errorf("%+v, %v", stamp, err)
	}
	without, err := timestamp.ParseResponse(ask(a, request(t, crypto.SHA256, nil, false)).Body.Bytes())
	if err != nil || len(without.Certificates) != 0 {
		t.Errorf("certificates that nobody asked for, or %v", err)
	}
}

func TestRefuses(t *testing.T) {
	t.Parallel()
	a := newAuthority(t)
	for name, body := range map[string][]byte{
		"nothing": nil, "no DER": []byte("x"), "too much": make([]byte, maxRequest+1),
		"SHA-1":                  request(t, crypto.SHA1, nil, true),
		"JSON without a hash":    []byte(`{"hashAlgorithm":"sha256"}`),
		"JSON of another hash":   []byte(`{"hashAlgorithm":"md5","artifactHash":"AAAA"}`),
		"JSON that is cut":       []byte(`{"hashAlgorithm":`),
		"JSON with a long nonce": []byte(`{"hashAlgorithm":"sha256","artifactHash":"` + strings.Repeat("A", 43) + `=","nonce":` + strings.Repeat("9", maxJSON) + `}`),
	} {
		if answer := ask(a, body); answer.Code != http.StatusBadRequest || answer.Body.Len() == 0 {
			t.Errorf("%s: %d %s", name, answer.Code, answer.Body)
		}
	}
	if _, err := New(a.chain[:1], a.key, time.Now); err == nil {
		t.Error("a chain without a root was taken")
	}
	if _, err := New(newAuthority(t).chain, a.key, time.Now); err == nil {
		t.Error("another's chain was taken")
	}
}

func FuzzAnswer(f *testing.F) {
	a := newAuthority(f)
	f.Add(request(f, crypto.SHA256, []byte("x"), true))
	f.Add([]byte{0x30, 0})
	f.Add([]byte(`{"artifactHash":"n4bQgYhMfWWaL+qgxVrQFaO/TxsrC4Is0V1sFbDwCgg=","hashAlgorithm":"sha256","nonce":7}`))
	f.Fuzz(func(t *testing.T, body []byte) {
		contentType := ""
		if bytes.HasPrefix(body, []byte("{")) {
			contentType = "application/json"
		}
		answer, err := a.answer(body, contentType)
		if err != nil {
			return
		}
		stamp, err := timestamp.ParseResponse(answer)
		if err != nil || len(stamp.HashedMessage) < sha256.Size {
			t.Fatalf("%v: %x", err, answer)
		}
	})
}
