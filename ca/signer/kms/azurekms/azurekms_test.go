// SPDX-License-Identifier: Apache-2.0

package azurekms

import (
	"bytes"
	"errors"
	"math/big"
	"net/http"
	"testing"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/Azure/azure-sdk-for-go/sdk/azidentity"
	"golang.org/x/crypto/cryptobyte"
	"golang.org/x/crypto/cryptobyte/asn1"

	"github.com/mayfly-ca/mayfly/ca/signer"
	"github.com/mayfly-ca/mayfly/ca/signer/kms"
)

// wrap wraps a signature as sigstore's client does.
func wrap(signature []byte) []byte {
	var b cryptobyte.Builder
	b.AddASN1(asn1.SEQUENCE, func(b *cryptobyte.Builder) {
		b.AddASN1BigInt(new(big.Int).SetBytes(signature[:len(signature)/2]))
		b.AddASN1BigInt(new(big.Int).SetBytes(signature[len(signature)/2:]))
	})
	return b.BytesOrPanic()
}

// FuzzUnwrapRSA checks that wrapping an unwrapped signature gives the same bytes again.
func FuzzUnwrapRSA(f *testing.F) {
	f.Add(wrap(bytes.Repeat([]byte{0xff}, 256)))
	f.Add(wrap(make([]byte, 256)))
	f.Add(wrap(append(make([]byte, 127), bytes.Repeat([]byte{1}, 129)...)))
	f.Add([]byte{0x30, 0x06, 0x02, 0x01, 0xff, 0x02, 0x01, 0x01})
	f.Fuzz(func(t *testing.T, der []byte) {
		signature, err := unwrapRSA(der, 256)
		if err != nil {
			return
		}
		if len(signature) != 256 || !bytes.Equal(wrap(signature), der) {
			t.Errorf("%x becomes %x", der, signature)
		}
	})
}

func TestJudge(t *testing.T) {
	t.Parallel()
	response := func(status int) *http.Response {
		return &http.Response{StatusCode: status, Header: http.Header{"Retry-After": {"3"}}}
	}
	answer := func(status int) error {
		return &azcore.ResponseError{StatusCode: status, RawResponse: response(status)}
	}
	passing := kms.Verdict{Meaning: kms.Passing, RetryAfter: 3 * time.Second}
	unauthenticated := kms.Verdict{Meaning: kms.Unauthenticated}
	for _, c := range []struct {
		name string
		err  error
		want kms.Verdict
	}{
		{"overloaded", answer(429), passing},
		{"broken", answer(500), passing},
		{"without response", &azcore.ResponseError{StatusCode: 503}, kms.Verdict{Meaning: kms.Passing}},
		{"forbidden", answer(403), kms.Verdict{Meaning: kms.Forbidden}},
		{"not there", answer(404), kms.Verdict{Meaning: kms.Absent}},
		{"bad request", answer(400), kms.Verdict{}},
		{"wrong secret", &azidentity.AuthenticationFailedError{RawResponse: response(401)}, unauthenticated},
		{"wrong tenant", &azidentity.AuthenticationFailedError{RawResponse: response(400)}, unauthenticated},
		{"login overloaded", &azidentity.AuthenticationFailedError{RawResponse: response(429)}, passing},
		{"login not reached", &azidentity.AuthenticationFailedError{}, kms.Verdict{Meaning: kms.Unauthenticated, Remedy: signer.Retry}},
		{"no credentials", &azidentity.AuthenticationRequiredError{}, unauthenticated},
		{"other", errors.New("boom"), kms.Verdict{}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			if got := judge(c.err); got != c.want {
				t.Errorf("got %+v, want %+v", got, c.want)
			}
		})
	}
}
