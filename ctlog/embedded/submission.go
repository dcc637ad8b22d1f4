// SPDX-License-Identifier: Apache-2.0

package embedded

import (
	"bytes"
	"cmp"
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
	"sync"

	ct "github.com/google/certificate-transparency-go"
	ctx509 "github.com/google/certificate-transparency-go/x509"
	"github.com/transparency-dev/tessera/ctonly"

	"github.com/mayfly-ca/mayfly/ctlog"
)

const (
	// maxSubmission bounds the body of add-chain and add-pre-chain: JSON in base64.
	maxSubmission = 256 << 10
	// maxReplays is how many submissions over HTTP the log remembers: at most 16 MiB.
	maxReplays = 32 << 10
)

// authorize admits only clients with the submit token.
func (l *Log) authorize(w http.ResponseWriter, r *http.Request) error {
	if len(l.cfg.SubmitToken) == 0 {
		return refuse(http.StatusForbidden, "this log takes no submissions over HTTP; its operator can allow them with submit: {token_file: …}")
	}
	scheme, token, _ := strings.Cut(r.Header.Get("Authorization"), " ")
	if !strings.EqualFold(scheme, "Bearer") || token == "" {
		w.Header().Set("WWW-Authenticate", `Bearer realm="ct-submit"`)
		return refuse(http.StatusUnauthorized, "submitting to this log needs its token, as in Authorization: Bearer TOKEN")
	}
	// Compares hashes, so that timing does not even reveal the length of the token.
	sent, want := sha256.Sum256([]byte(token)), sha256.Sum256(l.cfg.SubmitToken)
	if subtle.ConstantTimeCompare(sent[:], want[:]) != 1 {
		return refuse(http.StatusForbidden, "this is not the token for submitting to this log")
	}
	return nil
}

// getRoots is RFC 6962, section 4.7.
func (l *Log) getRoots(w http.ResponseWriter, r *http.Request) error {
	answer := ct.GetRootsResponse{Certificates: []string{}}
	for _, root := range l.cfg.Roots() {
		answer.Certificates = append(answer.Certificates, base64.StdEncoding.EncodeToString(root.Raw))
	}
	return answerJSON(w, r, mutable, answer)
}

// addChain is add-pre-chain (RFC 6962, section 4.2) or add-chain (section 4.1).
func (l *Log) addChain(w http.ResponseWriter, r *http.Request) error {
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
	chain, err := checkChain(request.Chain, l.cfg.Roots())
	if err != nil {
		return err
	}
	e, err := newEntry(chain, r.URL.Path == ct.AddPreChainPath)
	if err != nil {
		return err
	}
	var ders [][]byte
	for _, c := range chain {
		ders = append(ders, c.Raw)
	}
	sct, err := l.replays.once(r.Context(), sha256.Sum256(bytes.Join(ders, nil)), func(ctx context.Context) (ctlog.SCT, error) {
		return l.submit(ctx, e, ders[1:])
	})
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

// checkChain returns the chain from the submitted leaf to an accepted root, which the submission may
// leave out (RFC 6962, section 3.1).
func checkChain(ders [][]byte, roots []*x509.Certificate) ([]*x509.Certificate, error) {
	if n := len(ders); n < 1 || n > maxChain {
		return nil, refuse(http.StatusBadRequest, "the chain has %d certificates; it should have from 2 to %d", n, maxChain)
	}
	options := x509.VerifyOptions{Roots: x509.NewCertPool(), Intermediates: x509.NewCertPool(), KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny}}
	for _, root := range roots {
		options.Roots.AddCert(root)
	}
	var submitted []*x509.Certificate
	for i, der := range ders {
		c, err := x509.ParseCertificate(der)
		if err != nil {
			return nil, refuse(http.StatusBadRequest, "certificate %d of the chain cannot be parsed", i)
		}
		submitted = append(submitted, c)
		options.Intermediates.AddCert(c)
	}
	leaf := *submitted[0]
	// A log accepts every issued certificate, even if it has expired.
	options.CurrentTime = leaf.NotBefore
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

// newEntry returns the entry of a verified chain.
func newEntry(chain []*x509.Certificate, precert bool) (*ctonly.Entry, error) {
	leaf := chain[0]
	if poisoned := slices.ContainsFunc(leaf.Extensions, isPoison); poisoned != precert {
		return nil, refuse(http.StatusBadRequest, "add-pre-chain takes a precertificate first, with the poison extension, and add-chain a certificate without it")
	}
	if !precert {
		return &ctonly.Entry{Certificate: leaf.Raw}, nil
	}
	tbs, err := ctx509.RemoveCTPoison(leaf.RawTBSCertificate)
	if err != nil {
		return nil, refuse(http.StatusBadRequest, "the first certificate's TBSCertificate cannot be parsed")
	}
	keyHash := sha256.Sum256(chain[1].RawSubjectPublicKeyInfo)
	return &ctonly.Entry{IsPrecert: true, Precertificate: leaf.Raw, Certificate: tbs, IssuerKeyHash: keyHash[:]}, nil
}

// isPoison reports whether an extension is the poison: critical, and NULL (RFC 6962, section 3.1).
func isPoison(e pkix.Extension) bool {
	return e.Critical && e.Id.Equal(asn1.ObjectIdentifier(ctx509.OIDExtensionCTPoison)) && bytes.Equal(e.Value, asn1.NullBytes)
}

// replays answers a repeated submission with its first SCT (RFC 6962, section 3). It forgets
// all when the process ends. A precertificate is public in the log, and a client with the token that
// submits it again after that adds an entry.
type replays struct {
	size int

	mu sync.Mutex
	// Under mu: when young has size submissions, it becomes old, and old is forgotten. So the last
	// size submissions are known.
	young, old map[[sha256.Size]byte]*replay
}

// replay is a submission that is running or has succeeded.
type replay struct {
	done chan struct{} // closed when sct and err are set
	sct  ctlog.SCT
	err  error
}

func newReplays(size int) *replays {
	return &replays{size: size, young: make(map[[sha256.Size]byte]*replay)}
}

// once calls submit for the first of several equal submissions and gives its SCT to all. It
// forgets failures. A caller returns when its ctx ends; the submission continues without it.
func (s *replays) once(ctx context.Context, key [sha256.Size]byte, submit func(context.Context) (ctlog.SCT, error)) (ctlog.SCT, error) {
	s.mu.Lock()
	known := cmp.Or(s.young[key], s.old[key])
	if known == nil {
		known = &replay{done: make(chan struct{})}
		if len(s.young) >= s.size {
			s.young, s.old = make(map[[sha256.Size]byte]*replay), s.young
		}
		s.young[key] = known
		go func() {
			defer close(known.done)
			if known.sct, known.err = submit(context.WithoutCancel(ctx)); known.err != nil {
				s.mu.Lock()
				defer s.mu.Unlock()
				delete(s.young, key)
				delete(s.old, key)
			}
		}()
	}
	s.mu.Unlock()
	select {
	case <-known.done:
		return known.sct, known.err
	case <-ctx.Done():
		return ctlog.SCT{}, ctx.Err()
	}
}
