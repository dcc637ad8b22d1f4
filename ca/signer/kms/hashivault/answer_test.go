// SPDX-License-Identifier: Apache-2.0

package hashivault

import (
	"bytes"
	"crypto"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"strings"
	"testing"
)

const p256 = `-----BEGIN PUBLIC KEY-----\nMFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEiYZ6fVdalwTOSPjxAR7WXbTnam/9\ntBrNjfLhg7IYxRDgf4IINsvZvW7oIOv2Tzz0chciswFau5utFiW6E+ROQw==\n-----END PUBLIC KEY-----\n`

func TestParseKeyMistakes(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ name, body, want string }{
		{"no JSON", `<html>`, "parsing the key: invalid character"},
		{"null", `null`, "version: the key has no version 2; it has none"},
		{"other versions", `{"data":{"keys":{"1":{},"3":{}}}}`, "version: the key has no version 2; it has 1, 3"},
		{"many versions", `{"data":{"keys":{"1":{},"11":{},"a":{},"b":{},"c":{},"d":{},"e":{},"f":{},"g":{},"h":{},"i":{}}}}`, "version: the key has no version 2; it has 11 others"},
		{"symmetric", `{"data":{"type":"aes256-gcm96","keys":{"2":1767225600}}}`, `uri: the key is of type "aes256-gcm96" and has no public half; name a key of type ecdsa-p256`},
		{"Ed25519", `{"data":{"type":"ed25519","keys":{"2":{"public_key":"AAAA"}}}}`, "uri: the key is of type ed25519, which is not supported"},
		{"no PEM", `{"data":{"type":"ecdsa-p256","keys":{"2":{"public_key":"AAAA"}}}}`, "parsing the key: public_key is not PEM"},
		{"no key", `{"data":{"type":"ecdsa-p256","keys":{"2":{"public_key":"-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n"}}}}`, "parsing the key: "},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			if _, err := parseKey([]byte(c.body), 2); err == nil || !strings.HasPrefix(err.Error(), c.want) {
				t.Errorf("the error is %v, want %s…", err, c.want)
			}
		})
	}
}

func TestParseSignatureMistakes(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ name, body, want string }{
		{"no JSON", `<html>`, "parsing the signature: invalid character"},
		{"none", `{"data":{}}`, `the signature does not begin with vault:v2: but with ""`},
		{"other version", `{"data":{"signature":"vault:v21:AAAA"}}`, `the signature does not begin with vault:v2: but with "vault:v21:"`},
		{"no base64", `{"data":{"signature":"vault:v2:*"}}`, "parsing the signature: illegal base64"},
		{"empty", `{"data":{"signature":"vault:v2:"}}`, "the signature is empty"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			if _, err := parseSignature([]byte(c.body), 2); err == nil || !strings.HasPrefix(err.Error(), c.want) {
				t.Errorf("the error is %v, want %s…", err, c.want)
			}
		})
	}
}

// FuzzParseKey checks that a parsed key is parsed again from an answer that holds it.
func FuzzParseKey(f *testing.F) {
	f.Add([]byte(`{"data":{"type":"ecdsa-p256","keys":{"1":{"public_key":"`+p256+`"}}}}`), uint(1))
	f.Add([]byte(`{"data":{"type":"aes256-gcm96","keys":{"1":1767225600}}}`), uint(1))
	f.Fuzz(func(t *testing.T, body []byte, version uint) {
		public, err := parseKey(body, version)
		if err != nil {
			return
		}
		der, err := x509.MarshalPKIXPublicKey(public)
		if err != nil {
			t.Skip() // an X25519 key, which cannot sign
		}
		text := string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}))
		again, err := json.Marshal(map[string]any{"data": map[string]any{"keys": map[string]any{versionText(version): map[string]string{"public_key": text}}}})
		if err != nil {
			t.Fatal(err)
		}
		second, err := parseKey(again, version)
		if equal, ok := public.(interface{ Equal(crypto.PublicKey) bool }); err != nil || ok && !equal.Equal(second) {
			t.Errorf("got %v, want %v; error %v", second, public, err)
		}
	})
}

// FuzzParseSignature checks that a parsed signature is parsed again from an answer that holds
// it.
func FuzzParseSignature(f *testing.F) {
	f.Add([]byte(`{"data":{"signature":"vault:v1:MEUCIQ=="}}`), uint(1))
	f.Fuzz(func(t *testing.T, body []byte, version uint) {
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
