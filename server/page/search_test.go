// SPDX-License-Identifier: Apache-2.0

package page

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net/url"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/mayfly-ca/mayfly/ca"
	"github.com/mayfly-ca/mayfly/certs"
	"github.com/mayfly-ca/mayfly/ctlog/reader"
)

func fails(context.Context) (*reader.Source, error) { return nil, errors.New(hostile) }

func escaped(text string) string { return url.QueryEscape(text) }

// authority returns the chain of an authority, and a function that issues a certificate with a URI.
func authority(t *testing.T) (*ca.Chain, func(uri string, serial int64) []byte) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	root := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "page root"}, NotBefore: at.Add(-day), NotAfter: at.Add(9000 * day),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	create := func(template *x509.Certificate) []byte {
		der, err := x509.CreateCertificate(rand.Reader, template, root, &key.PublicKey, key)
		if err != nil {
			t.Fatal(err)
		}
		return der
	}
	rootDER := create(root)
	parsed, err := x509.ParseCertificate(rootDER)
	if err != nil {
		t.Fatal(err)
	}
	chain := &ca.Chain{Certificates: []*x509.Certificate{parsed}, PEM: []string{strings.TrimSpace(string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: rootDER})))}}
	return chain, func(uri string, serial int64) []byte {
		u, err := url.Parse(uri)
		if err != nil {
			t.Fatal(err)
		}
		return create(&x509.Certificate{
			SerialNumber: big.NewInt(serial), NotBefore: at, NotAfter: at.Add(10 * time.Minute), URIs: []*url.URL{u},
			KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageCodeSigning},
			ExtraExtensions: []pkix.Extension{{Id: append(slices.Clone(certs.OIDSigstore), 1), Value: []byte("https://issuer.example")}},
		})
	}
}

// log returns a log with entries, of which every read waits for ready.
func log(name string, size uint64, entry func(index uint64) []byte, ready <-chan struct{}) Log {
	return Log{Name: name, ID: []byte{0xab}, Open: func(context.Context) (*reader.Source, error) {
		return &reader.Source{Head: reader.Head{Size: size}, Parallel: 1, Read: func(ctx context.Context, first, end uint64) (all []*reader.Entry, err error) {
			select {
			case <-ready:
			case <-ctx.Done():
				return nil, ctx.Err()
			}
			for i := first; i < end; i++ {
				all = append(all, &reader.Entry{Index: i, Timestamp: uint64(at.UnixMilli()), Precert: true, Certificate: entry(i)})
			}
			return all, nil
		}}, nil
	}}
}

func ready() <-chan struct{} {
	c := make(chan struct{})
	close(c)
	return c
}

func TestSearch(t *testing.T) {
	t.Parallel()
	chain, issue := authority(t)
	leaf, other := issue("https://ci.example/a", 0x0102), issue("https://ci.example/b", 0x0203)
	cfg := of(quiet())
	cfg.Chains = func() []*ca.Chain { return []*ca.Chain{chain} }
	cfg.Logs = []Log{log("2026", 300, func(i uint64) []byte {
		if i == 7 {
			return leaf
		}
		return other
	}, ready())}
	for _, c := range []struct{ query, want, not string }{
		{"", "Search a log", "entries of the log"},
		{"identity=https://ci.example/a", "covered all 300 entries", "not complete"},
		{"identity=https://ci.example/a", "/page/certificate?log=2026&amp;index=7", "/b<"},
		{"serial=01:02", "1 found", "/b<"},
		{"serial=0x", "not hexadecimal", "0 found"},
		{"identity=https://ci.example/c", "0 found", "not complete"},
		{"issuer=https://issuer.example", "100 found", "covered all"},
		{"issuer=https://issuer.example", "newest 100 of 300 entries", "covered all"},
		{"identity=x&log=none", "no such log", "0 found"},
	} {
		body := get(t, cfg, "/page/search?"+c.query).Body.String()
		if !strings.Contains(body, c.want) || strings.Contains(body, c.not) {
			t.Errorf("%s: want %q, and not %q", c.query, c.want, c.not)
		}
	}
	if body := get(t, of(quiet()), "/page/search?identity=x").Body.String(); !strings.Contains(body, "no log that can be searched") {
		t.Error("the page of a server without a log has a form")
	}
}

func TestCertificate(t *testing.T) {
	t.Parallel()
	chain, issue := authority(t)
	leaf := issue("https://ci.example/a", 0x0102)
	cfg := of(quiet())
	cfg.Chains = func() []*ca.Chain { return []*ca.Chain{chain} }
	cfg.Logs = []Log{log("2026", 3, func(uint64) []byte { return leaf }, ready()), log("garbage", 3, func(uint64) []byte { return []byte("?") }, ready())}
	body := get(t, cfg, "/page/certificate?log=2026&index=2").Body.String()
	for _, want := range []string{"https://ci.example/a", "102", "Issuer", "https://issuer.example", "Subject alternative name", "Key usage", "log ID <code>ab", "CN=page root", "2026-11-30T02:14:30.000Z, entry 2", "in the trust bundle"} {
		if !strings.Contains(body, want) {
			t.Errorf("the certificate lacks %q", want)
		}
	}
	download := get(t, cfg, "/page/certificate?log=2026&index=2&pem=1")
	first, rest := pem.Decode(download.Body.Bytes())
	second, rest := pem.Decode(rest)
	if first == nil || second == nil || !bytes.Equal(first.Bytes, leaf) || !bytes.Equal(second.Bytes, chain.Certificates[0].Raw) || len(rest) > 0 ||
		download.Header().Get("Content-Disposition") != `attachment; filename="entry-2.pem"` || download.Header().Get("Content-Type") != "application/pem-certificate-chain" {
		t.Errorf("the download is %v\n%s", download.Header(), download.Body)
	}
	cfg.Chains = func() []*ca.Chain { return nil }
	if body := get(t, cfg, "/page/certificate?log=2026&index=2").Body.String(); !strings.Contains(body, "No authority of the trust bundle signed it") {
		t.Error("a certificate without its authority has a chain")
	}
	for _, query := range []string{"log=2026&index=3", "log=2026&index=-1", "log=2026", "log=2026&index=99999999999999999999", "log=garbage&index=1"} {
		if w := get(t, cfg, "/page/certificate?"+query); w.Code != 404 {
			t.Errorf("%s: status %d", query, w.Code)
		}
	}
}

// A search ends after its time, and states what it covered. Another one waits for its turn no longer
// than that.
func TestSearchIsBounded(t *testing.T) {
	t.Parallel()
	_, issue := authority(t)
	leaf := issue("https://ci.example/a", 1)
	synctest.Test(t, func(t *testing.T) {
		cfg := of(quiet())
		cfg.Chains = func() []*ca.Chain { return nil }
		batches := make(chan struct{}, 1)
		batches <- struct{}{} // one batch is read, and then the log hangs
		cfg.Logs = []Log{log("2026", 1000, func(uint64) []byte { return leaf }, batches)}
		handler := New(cfg)
		began := time.Now()
		bodies := make(chan string)
		for range 2 {
			go func() { bodies <- answer(t, handler, "/page/search?identity=https://ci.example/none").Body.String() }()
		}
		var incomplete, busy int
		for range 2 {
			switch body := <-bodies; {
			case strings.Contains(body, "The search is not complete") && strings.Contains(body, fmt.Sprintf("newest %d of 1,000 entries", 1000-3*reader.Batch)):
				incomplete++
			case strings.Contains(body, "another search is in progress"):
				busy++
			}
		}
		if took := time.Since(began); incomplete != 1 || busy != 1 || took > 2*readTime {
			t.Errorf("%d searches were incomplete and %d refused, after %s", incomplete, busy, took)
		}
	})
}

// The page takes any query without a panic, and never shows markup of it.
func FuzzSearch(f *testing.F) {
	f.Add("identity=a&issuer=*&serial=01&log=2026")
	f.Add("identity=%00&serial=zz&pem=1&index=1")
	f.Fuzz(func(t *testing.T, query string) {
		cfg := of(quiet())
		cfg.Logs = []Log{log("2026", 3, func(uint64) []byte { return []byte("?") }, ready())}
		for _, path := range []string{"/page/search?", "/page/certificate?", "/?"} {
			u := url.URL{Path: strings.TrimSuffix(path, "?"), RawQuery: query}
			if _, err := url.ParseRequestURI(u.String()); err != nil || strings.ContainsAny(query, " \r\n#") {
				return
			}
			if body := get(t, cfg, u.String()).Body.String(); strings.Contains(body, "<script") || strings.Contains(body, "ZgotmplZ") {
				t.Errorf("%q: %s", query, body)
			}
		}
	})
}
