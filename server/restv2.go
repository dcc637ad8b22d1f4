// SPDX-License-Identifier: Apache-2.0

package server

import (
	"bytes"
	"context"
	"encoding/base64"
	"errors"
	"io"
	"slices"
	"strings"

	"github.com/go-json-experiment/json/jsontext"

	"github.com/mayfly-ca/mayfly/ca"
	"github.com/mayfly-ca/mayfly/proof"
)

// createV2 issues a certificate. The gateway answers a request that decodeV2 does not decode.
func (s *Server) createV2(ctx context.Context, q *request) ([]byte, error) {
	token, p, ok := decodeV2(q.body)
	if !ok {
		return s.callGateway(ctx, q)
	}
	issued, err := s.issue(ctx, q, token, p)
	if err != nil {
		return nil, err
	}
	return s.answerV2(issued), nil
}

// decodeV2 returns the ID token and the proof of possession in the body of a request for a
// certificate. It decodes what signing clients send: known names, each once, and strings, of which a
// proof is padded base64 of the standard alphabet. For any other body ok is false; protojson, through
// the gateway, decodes or refuses it.
func decodeV2(body []byte) (token string, p ca.Proof, ok bool) {
	d := bodyDecoder{jsontext.NewDecoder(bytes.NewBuffer(body), jsontext.AllowDuplicateNames(true))}
	var credentials, keyRequest, key bool // whether the field is present
	var idToken, algorithm, content, signature, csr []byte
	ok = d.object(new(bool), func(name []byte) bool {
		switch string(name) {
		case `"credentials"`:
			return d.object(&credentials, func(name []byte) bool {
				switch string(name) {
				case `"oidcIdentityToken"`, `"oidc_identity_token"`:
					return d.text(&idToken)
				}
				return false
			})
		case `"publicKeyRequest"`, `"public_key_request"`:
			return d.object(&keyRequest, func(name []byte) bool {
				switch string(name) {
				case `"publicKey"`, `"public_key"`:
					return d.object(&key, func(name []byte) bool {
						return string(name) == `"algorithm"` && d.text(&algorithm) || string(name) == `"content"` && d.text(&content)
					})
				case `"proofOfPossession"`, `"proof_of_possession"`:
					return d.base64(&signature)
				}
				return false
			})
		case `"certificateSigningRequest"`, `"certificate_signing_request"`:
			return d.base64(&csr)
		}
		return false
	})
	if _, err := d.ReadToken(); !ok || !errors.Is(err, io.EOF) {
		return "", nil, false
	}
	switch {
	case csr == nil && !keyRequest:
		p = noProof{}
	case csr == nil:
		p = proof.SignedChallenge{PublicKey: content, Signature: signature}
	case !keyRequest:
		p = proof.CSR{PEM: csr}
	default: // both members of a oneof
		return "", nil, false
	}
	return string(idToken), p, true
}

// bodyDecoder reads values, which must be of the expected kind and the first of their field.
type bodyDecoder struct{ *jsontext.Decoder }

// object reads an object, whose values member reads. Names have quotes.
func (d bodyDecoder) object(seen *bool, member func(name []byte) bool) bool {
	if *seen || d.PeekKind() != jsontext.KindBeginObject {
		return false
	}
	*seen = true
	_, err := d.ReadToken()
	for err == nil && d.PeekKind() == jsontext.KindString {
		var name jsontext.Value
		if name, err = d.ReadValue(); err != nil || !member(name) {
			return false
		}
	}
	end, err := d.ReadToken()
	return err == nil && end.Kind() == jsontext.KindEndObject
}

// text reads a string.
func (d bodyDecoder) text(into *[]byte) bool {
	if *into != nil || d.PeekKind() != jsontext.KindString {
		return false
	}
	value, err := d.ReadValue()
	if err == nil {
		*into, err = jsontext.AppendUnquote(make([]byte, 0, len(value)), value)
	}
	return err == nil
}

// base64 reads a string of base64.
func (d bodyDecoder) base64(into *[]byte) bool {
	if !d.text(into) || len(*into)%4 != 0 {
		return false
	}
	encoded := *into
	*into = make([]byte, base64.StdEncoding.DecodedLen(len(encoded)))
	n, err := base64.StdEncoding.Decode(*into, encoded)
	*into = (*into)[:n]
	return err == nil
}

// answerV2 returns the answer with a certificate, as protojson renders SigningCertificate. Without an
// SCT it has the detached form.
func (s *Server) answerV2(issued *ca.Issued) []byte {
	form, end := `{"signedCertificateEmbeddedSct":{"chain":{"certificates":["`, `}}`
	if !issued.SCTEmbedded {
		form, end = `{"signedCertificateDetachedSct":{"chain":{"certificates":["`, `,"signedCertificateTimestamp":""}}`
	}
	above := s.above(issued.Chain)
	body := make([]byte, 0, 256+3*len(issued.Certificate)/2+len(above.json))
	body = appendPEM(append(body, form...), issued.Certificate, `\n`)
	return append(append(body, above.json...), end...)
}

// answerV1 returns the answer with a certificate of API v1: PEM, the leaf first and the root last.
func (s *Server) answerV1(issued *ca.Issued) []byte {
	above := s.above(issued.Chain)
	body := make([]byte, 0, 128+3*len(issued.Certificate)/2+len(above.pem))
	return append(appendPEM(body, issued.Certificate, "\n"), above.pem...)
}

// appendPEM appends a certificate as one PEM block without a newline at its end. A newline in it is
// written as newline.
func appendPEM(dst, der []byte, newline string) []byte {
	dst = append(dst, "-----BEGIN CERTIFICATE-----"...)
	for line := range slices.Chunk(der, 48) { // 64 characters (RFC 7468, section 2)
		dst = base64.StdEncoding.AppendEncode(append(dst, newline...), line)
	}
	return append(append(dst, newline...), "-----END CERTIFICATE-----"...)
}

// above is what follows a leaf in an answer: the certificates of its chain. It is immutable.
type above struct {
	chain *ca.Chain
	json  []byte // v2, to the end of the message CertificateChain
	pem   []byte // v1
}

// above returns what follows a leaf of chain, which is rendered again only when another authority
// signs.
func (s *Server) above(chain *ca.Chain) *above {
	a := s.newest.Load()
	if a == nil || a.chain != chain {
		list := strings.ReplaceAll(strings.Join(chain.PEM, `","`), "\n", `\n`)
		a = &above{chain, []byte(`","` + list + `"]}`), []byte("\n" + strings.Join(chain.PEM, "\n"))}
		s.newest.Store(a)
	}
	return a
}
