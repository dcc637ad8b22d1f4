// SPDX-License-Identifier: Apache-2.0

package embedded

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/base64"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"slices"
	"strings"

	ct "github.com/google/certificate-transparency-go"
	ctx509 "github.com/google/certificate-transparency-go/x509"
	"github.com/transparency-dev/tessera/ctonly"

	"github.com/mayfly-ca/mayfly/ctlog"
)

// maxSubmission bounds the body of add-chain and add-pre-chain: JSON in base64.
const maxSubmission = 256 << 10

// authorized admits only clients with the submit token.
func authorized(next endpoint) endpoint {
	return func(f *front, w http.ResponseWriter, r *http.Request) error {
		if len(f.log.cfg.SubmitToken) == 0 {
			return refuse(http.StatusForbidden, "this log takes no submissions over HTTP; its operator can allow them with submit: {token_file: …}")
		}
		scheme, token, _ := strings.Cut(r.Header.Get("Authorization"), " ")
		if !strings.EqualFold(scheme, "Bearer") || token == "" {
			w.Header().Set("WWW-Authenticate", `Bearer realm="ct-submit"`)
			return refuse(http.StatusUnauthorized, "submitting to this log needs its token, as in Authorization: Bearer TOKEN")
		}
		// Compares hashes, so that timing does not even reveal the length of the token.
		sent, want := sha256.Sum256([]byte(token)), sha256.Sum256(f.log.cfg.SubmitToken)
		if subtle.ConstantTimeCompare(sent[:], want[:]) != 1 {
			return refuse(http.StatusForbidden, "this is not the token for submitting to this log")
		}
		return next(f, w, r)
	}
}

// getRoots is RFC 6962, section 4.7.
func (f *front) getRoots(w http.ResponseWriter, r *http.Request) error {
	answer := ct.GetRootsResponse{Certificates: []string{}}
	for _, root := range f.log.cfg.Roots() {
		answer.Certificates = append(answer.Certificates, base64.StdEncoding.EncodeToString(root.Raw))
	}
	return answerJSON(w, r, mutable, answer)
}

// addChain returns the endpoint of add-pre-chain (RFC 6962, section 4.2) or add-chain (section 4.1).
func addChain(precert bool) endpoint {
	return authorized(func(f *front, w http.ResponseWriter, r *http.Request) error { return f.addChain(w, r, precert) })
}

func (f *front) addChain(w http.ResponseWriter, r *http.Request, precert bool) error {
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxSubmission))
	switch {
	case errors.As(err, new(*http.MaxBytesError)):
		return refuse(http.StatusRequestEntityTooLarge, "the submission has more than %d bytes", maxSubmission)
	case err != nil:
		return refuse(http.StatusBadRequest, "the submission could not be read to its end")
	}
	var request ct.AddChainRequest
	if err := json.Unmarshal(body, &request); err != nil {
		return refuse(http.StatusBadRequest, `the submission is not a JSON object of the form {"chain":["BASE64", …]}`)
	}
	e, err := f.newEntry(request.Chain, precert)
	if err != nil {
		return err
	}
	sct, err := f.replays.once(r.Context(), identity(e), func(ctx context.Context) (ctlog.SCT, error) { return f.log.submit(ctx, e) })
	if err != nil {
		return err
	}
	signature, err := digitallySigned(sct.Signature)
	if err != nil {
		return err
	}
	return answerJSON(w, r, private, ct.AddChainResponse{
		SCTVersion: ct.V1, ID: sct.LogID[:], Timestamp: sct.Timestamp,
		Extensions: base64.StdEncoding.EncodeToString(sct.Extensions), Signature: signature,
	})
}

// identity returns the hash under which two submissions count as the same.
func identity(e *entry) [sha256.Size]byte {
	leaf := e.leaf.Certificate
	if e.leaf.IsPrecert {
		leaf = e.leaf.Precertificate
	}
	return sha256.Sum256(append(bytes.Clone(leaf), bytes.Join(e.chain, nil)...))
}

// newEntry checks a chain that a client submits.
func (f *front) newEntry(chain [][]byte, precert bool) (*entry, error) {
	if n := len(chain); n < 1 || n > maxChain {
		return nil, refuse(http.StatusBadRequest, "the chain has %d certificates; it should have from 2 to %d", n, maxChain)
	}
	certificates := make([]*x509.Certificate, 0, len(chain))
	for i, der := range chain {
		if len(der) > maxCertificate {
			return nil, refuse(http.StatusBadRequest, "certificate %d of the chain has %d bytes; at most %d are accepted", i, len(der), maxCertificate)
		}
		c, err := x509.ParseCertificate(der)
		if err != nil {
			return nil, refuse(http.StatusBadRequest, "certificate %d of the chain cannot be parsed", i)
		}
		certificates = append(certificates, c)
	}
	verified, err := verifyChain(certificates, f.log.cfg.Roots())
	if err != nil {
		return nil, err
	}
	e := &entry{}
	for _, c := range verified[1:] {
		e.chain = append(e.chain, c.Raw)
	}
	leaf := verified[0]
	poisoned := slices.ContainsFunc(leaf.Extensions, isPoison)
	switch {
	case precert && !poisoned:
		return nil, refuse(http.StatusBadRequest, "the first certificate is no precertificate; it has no poison extension: use add-chain")
	case !precert && poisoned:
		return nil, refuse(http.StatusBadRequest, "the first certificate is a precertificate; use add-pre-chain")
	case !precert:
		e.leaf = ctonly.Entry{Certificate: leaf.Raw}
		return e, nil
	}
	tbs, err := ctx509.RemoveCTPoison(leaf.RawTBSCertificate)
	if err != nil {
		return nil, refuse(http.StatusBadRequest, "the first certificate's TBSCertificate cannot be parsed")
	}
	keyHash := sha256.Sum256(verified[1].RawSubjectPublicKeyInfo)
	e.leaf = ctonly.Entry{IsPrecert: true, Precertificate: leaf.Raw, Certificate: tbs, IssuerKeyHash: keyHash[:]}
	return e, nil
}

// isPoison reports whether an extension is the poison: critical, and NULL (RFC 6962, section 3.1).
func isPoison(e pkix.Extension) bool {
	return e.Critical && e.Id.Equal(asn1.ObjectIdentifier(ctx509.OIDExtensionCTPoison)) && bytes.Equal(e.Value, asn1.NullBytes)
}

// verifyChain returns the chain from the submitted leaf to an accepted root, which the
// submission may leave out (RFC 6962, section 3.1).
func verifyChain(submitted, roots []*x509.Certificate) ([]*x509.Certificate, error) {
	options := x509.VerifyOptions{
		Roots:         x509.NewCertPool(),
		Intermediates: x509.NewCertPool(),
		KeyUsages:     []x509.ExtKeyUsage{x509.ExtKeyUsageAny},
		// A log accepts every issued certificate, even if it has expired.
		CurrentTime: submitted[0].NotBefore,
	}
	for _, root := range roots {
		options.Roots.AddCert(root)
	}
	for _, c := range submitted[1:] {
		options.Intermediates.AddCert(c)
	}
	leaf := *submitted[0]
	// The poison is unknown on purpose; any other critical extension (a SAN of a form that
	// crypto/x509 does not know) is a matter for the relying party.
	leaf.UnhandledCriticalExtensions = nil
	chains, err := leaf.Verify(options)
	if err != nil {
		return nil, refuse(http.StatusBadRequest, "the chain does not lead to a root that this log accepts; get-roots lists them")
	}
	for _, chain := range chains {
		complete := chain[:min(len(submitted), len(chain))] // without the root, if the submission leaves it out
		if len(chain) >= 2 && len(chain) <= maxChain && len(chain)-len(submitted) <= 1 && slices.EqualFunc(submitted, complete, (*x509.Certificate).Equal) {
			return chain, nil
		}
	}
	return nil, refuse(http.StatusBadRequest, "the certificates of the chain are not in order; each should have signed the one before it, and the last be a root or signed by one")
}
