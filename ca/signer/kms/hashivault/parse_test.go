// SPDX-License-Identifier: Apache-2.0

package hashivault

import (
	"bytes"
	"crypto"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"testing"

	"github.com/mayfly-ca/mayfly/internal/pem"
)

const p256 = `-----BEGIN PUBLIC KEY-----\nMFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEiYZ6fVdalwTOSPjxAR7WXbTnam/9\ntBrNjfLhg7IYxRDgf4IINsvZvW7oIOv2Tzz0chciswFau5utFiW6E+ROQw==\n-----END PUBLIC KEY-----\n`

// A parsed key is parsed again from an answer that holds it.
func FuzzParseKey(f *testing.F) {
	f.Add([]byte(`{"data":{"type":"ecdsa-p256","keys":{"1":{"public_key":"`+p256+`"}}}}`), uint64(1))
	for _, body := range []string{
		`<html>`, `null`, `{"data":{"keys":{"3":{}}}}`, `{"data":{"type":"aes256-gcm96","keys":{"1":1767225600}}}`, `{"data":{"type":"ed25519","keys":{"1":{"public_key":"AAAA"}}}}`,
		`{"data":{"keys":{"1":{"public_key":"-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n"}}}}`,
	} {
		if _, err := parseKey([]byte(body), 1); err == nil {
			f.Errorf("%s: got no error", body)
		}
		f.Add([]byte(body), uint64(1))
	}
	f.Fuzz(func(t *testing.T, body []byte, version uint64) {
		public, err := parseKey(body, version)
		if err != nil {
			return
		}
		der, err := x509.MarshalPKIXPublicKey(public)
		if err != nil {
			t.Skip() // an X25519 key, which cannot sign
		}
		again, err := json.Marshal(map[string]any{"data": map[string]any{"keys": map[string]any{fmt.Sprint(version): map[string]string{"public_key": string(pem.Encode("PUBLIC KEY", der))}}}})
		if err != nil {
			t.Fatal(err)
		}
		second, err := parseKey(again, version)
		if equal, ok := public.(interface{ Equal(crypto.PublicKey) bool }); err != nil || ok && !equal.Equal(second) {
			t.Errorf("got %v, want %v; error %v", second, public, err)
		}
	})
}

// A parsed signature is parsed again from an answer that holds it.
func FuzzParseSignature(f *testing.F) {
	f.Add([]byte(`{"data":{"signature":"vault:v1:MEUCIQ=="}}`), uint64(1))
	for _, body := range []string{`<html>`, `{"data":{}}`, `{"data":{"signature":"vault:v11:AAAA"}}`, `{"data":{"signature":"vault:v1:*"}}`, `{"data":{"signature":"vault:v1:"}}`} {
		if _, err := parseSignature([]byte(body), 1); err == nil {
			f.Errorf("%s: got no error", body)
		}
		f.Add([]byte(body), uint64(1))
	}
	f.Fuzz(func(t *testing.T, body []byte, version uint64) {
		signature, err := parseSignature(body, version)
		if err != nil {
			return
		}
		again := fmt.Appendf(nil, `{"data":{"signature":"vault:v%d:%s"}}`, version, base64.StdEncoding.EncodeToString(signature))
		if second, err := parseSignature(again, version); err != nil || !bytes.Equal(second, signature) {
			t.Errorf("got %x, want %x; error %v", second, signature, err)
		}
	})
}
