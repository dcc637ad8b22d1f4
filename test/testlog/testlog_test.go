// SPDX-License-Identifier: Apache-2.0

package testlog_test

import (
	"bytes"
	"crypto/x509"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	ct "github.com/google/certificate-transparency-go"
	"github.com/google/certificate-transparency-go/client"
	"github.com/google/certificate-transparency-go/jsonclient"
	"github.com/google/go-cmp/cmp"

	"github.com/mayfly-ca/mayfly/ctlog"
	"github.com/mayfly-ca/mayfly/test/testlog"
)

// world is a log, behind HTTP and with an independent client, and an authority that it accepts.
type world struct {
	log       *testlog.Log
	authority *testlog.Authority
	server    *httptest.Server
	client    *client.LogClient
}

func newWorld(t *testing.T, unchecked bool) *world {
	t.Helper()
	authority := testlog.NewAuthority(t, time.Now)
	log, err := testlog.New(testlog.Config{Roots: []*x509.Certificate{authority.Root}, Unchecked: unchecked})
	if err != nil {
		t.Fatal(err)
	}
	server := httptest.NewServer(log)
	t.Cleanup(server.Close)
	lc, err := client.New(server.URL, server.Client(), jsonclient.Options{PublicKey: string(log.PublicKeyPEM())})
	if err != nil {
		t.Fatal(err)
	}
	return &world{log: log, authority: authority, server: server, client: lc}
}

func asn1Certs(chain [][]byte) []ct.ASN1Cert {
	var certs []ct.ASN1Cert
	for _, der := range chain {
		certs = append(certs, ct.ASN1Cert{Data: der})
	}
	return certs
}

// add submits over HTTP through the independent client, which verifies the SCT.
func (w *world) add(t *testing.T, d *testlog.Draft) *ct.SignedCertificateTimestamp {
	t.Helper()
	sct, err := w.client.AddPreChain(t.Context(), asn1Certs(d.Submission.Chain))
	if err != nil {
		t.Fatal(err)
	}
	return sct
}

// A repetition gets the first SCT. The certificate with it can be logged too.
func TestEntries(t *testing.T) {
	t.Parallel()
	w := newWorld(t, false)
	d := w.authority.Draft(t)
	if diff := cmp.Diff(w.add(t, d), w.add(t, d)); diff != "" {
		t.Errorf("the second SCT differs:\n%s", diff)
	}
	sct, err := w.log.Submit(t.Context(), d.Submission)
	if err != nil {
		t.Fatal(err)
	}
	certificate := d.Certificate(t, sct)
	chain := [][]byte{certificate, w.authority.Intermediate.Raw} // the log finds the root
	if _, err := w.client.AddChain(t.Context(), asn1Certs(chain)); err != nil {
		t.Fatal(err)
	}
	entries, err := w.log.Entries()
	if err != nil {
		t.Fatal(err)
	}
	want := ct.RawLogEntry{
		Index: 1, Leaf: entries[1].Leaf, Cert: ct.ASN1Cert{Data: certificate},
		Chain: asn1Certs([][]byte{w.authority.Intermediate.Raw, w.authority.Root.Raw}),
	}
	if diff := cmp.Diff(want, entries[1]); diff != "" {
		t.Errorf("entry (-want +got):\n%s", diff)
	}
}

func TestRoots(t *testing.T) {
	t.Parallel()
	w := newWorld(t, false)
	other := testlog.NewAuthority(t, time.Now)
	stranger := other.Draft(t)
	if _, err := w.log.Submit(t.Context(), stranger.Submission); err == nil {
		t.Error("a chain with a foreign root was accepted")
	}
	w.log.AddRoot(other.Root)
	if _, err := w.log.Submit(t.Context(), stranger.Submission); err != nil {
		t.Errorf("after AddRoot: %v", err)
	}
	roots, err := w.client.GetAcceptedRoots(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(asn1Certs([][]byte{w.authority.Root.Raw, other.Root.Raw}), roots); diff != "" {
		t.Errorf("get-roots (-want +got):\n%s", diff)
	}
}

func TestRefusedChains(t *testing.T) {
	t.Parallel()
	w := newWorld(t, false)
	d := w.authority.Draft(t)
	chain := d.Submission.Chain
	sct, err := w.log.Submit(t.Context(), d.Submission)
	if err != nil {
		t.Fatal(err)
	}
	certificate := d.Certificate(t, sct)
	forged := bytes.Clone(chain[0])
	forged[len(forged)-1] ^= 1

	for name, test := range map[string]struct {
		path  string
		chain [][]byte
	}{
		"nothing":                         {ct.AddPreChainPath, nil},
		"not a certificate":               {ct.AddPreChainPath, [][]byte{[]byte("x"), chain[1], chain[2]}},
		"signature that is wrong":         {ct.AddPreChainPath, [][]byte{forged, chain[1], chain[2]}},
		"intermediate left out":           {ct.AddPreChainPath, [][]byte{chain[0], chain[2]}},
		"order turned round":              {ct.AddPreChainPath, [][]byte{chain[0], chain[2], chain[1]}},
		"root alone":                      {ct.AddChainPath, [][]byte{chain[2]}},
		"precertificate to add-chain":     {ct.AddChainPath, chain},
		"certificate to add-pre-chain":    {ct.AddPreChainPath, [][]byte{certificate, chain[1], chain[2]}},
		"more certificates than accepted": {ct.AddPreChainPath, append(chain[:3:3], chain[2], chain[2], chain[2], chain[2], chain[2], chain[2])},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			body, err := json.Marshal(ct.AddChainRequest{Chain: test.chain})
			if err != nil {
				t.Fatal(err)
			}
			response, err := http.Post(w.server.URL+test.path, "application/json", bytes.NewReader(body))
			if err != nil || response.Body.Close() != nil || response.StatusCode != http.StatusBadRequest {
				t.Errorf("%v, %v; want status 400", response, err)
			}
		})
	}
}

func TestSubmitRefusesTBSOfAnotherChain(t *testing.T) {
	t.Parallel()
	w := newWorld(t, false)
	a, b := w.authority.Draft(t).Submission, w.authority.Draft(t).Submission
	a.TBS = b.TBS
	if _, err := w.log.Submit(t.Context(), a); err == nil {
		t.Error("another TBS was accepted")
	}
	b.IssuerKeyHash[0] ^= 1
	if _, err := w.log.Submit(t.Context(), b); err == nil {
		t.Error("another issuer key hash was accepted")
	}
}

func TestUncheckedSubmitGivesGoodSCTs(t *testing.T) {
	t.Parallel()
	w := newWorld(t, true)
	key, err := ctlog.ParsePublicKey(w.log.PublicKeyPEM())
	if err != nil {
		t.Fatal(err)
	}
	d := testlog.NewAuthority(t, time.Now).Draft(t)
	for range 2 {
		sct, err := w.log.Submit(t.Context(), d.Submission)
		if err == nil {
			err = key.Verify(sct, d.Submission, time.Now())
		}
		if err != nil {
			t.Error(err)
		}
	}
	if head, err := w.client.GetSTH(t.Context()); err != nil || head.TreeSize != 2 {
		t.Errorf("tree head %v, %v; want size 2", head, err)
	}
}

// An unchecked log has the same entries, byte for byte, as one that encodes them with
// certificate-transparency-go.
func TestUncheckedEntries(t *testing.T) {
	t.Parallel()
	w := newWorld(t, false)
	now := time.Now()
	fast, err := testlog.New(testlog.Config{Unchecked: true, Now: func() time.Time { return now }})
	if err != nil {
		t.Fatal(err)
	}
	slow, err := testlog.New(testlog.Config{Roots: []*x509.Certificate{w.authority.Root}, Now: func() time.Time { return now }})
	if err != nil {
		t.Fatal(err)
	}
	for range 5 {
		d := w.authority.Draft(t)
		for _, log := range []*testlog.Log{fast, slow} {
			if _, err := log.Submit(t.Context(), d.Submission); err != nil {
				t.Fatal(err)
			}
		}
	}
	got, err := fast.Entries()
	if err != nil {
		t.Fatal(err)
	}
	want, err := slow.Entries()
	if diff := cmp.Diff(want, got); diff != "" || err != nil {
		t.Errorf("entries (-want +got): %v\n%s", err, diff)
	}
}

// BenchmarkUnchecked measures what an in-process log adds to a benchmark of a CA.
func BenchmarkUnchecked(b *testing.B) {
	log, err := testlog.New(testlog.Config{Unchecked: true})
	if err != nil {
		b.Fatal(err)
	}
	d := testlog.NewAuthority(b, time.Now).Draft(b)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := log.Submit(b.Context(), d.Submission); err != nil {
			b.Fatal(err)
		}
	}
}
