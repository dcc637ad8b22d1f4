// SPDX-License-Identifier: Apache-2.0

package app

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/mayfly-ca/mayfly/internal/keypath"
	"github.com/mayfly-ca/mayfly/internal/pem"
)

// certificatePair is the listeners' TLS certificate with its key. A handshake uses the newest pair
// that loaded.
type certificatePair struct {
	certificateFile, keyFile string
	current                  atomic.Pointer[tls.Certificate]
}

// load reads both files. It refuses a pair that does not match, or an expired certificate;
// the previous pair then stays in use.
func (p *certificatePair) load() error {
	certificate, err := readPEMText(p.certificateFile)
	if err != nil {
		return keypath.Errorf([]string{"tls", "certificate"}, "reading the TLS certificate: %w", err)
	}
	key, err := readPEMText(p.keyFile)
	if err != nil {
		return keypath.Errorf([]string{"tls", "key"}, "reading the TLS key: %w", err)
	}
	pair, err := tls.X509KeyPair(certificate, key)
	if err != nil {
		return keypath.Errorf([]string{"tls", "certificate"}, "%s and %s are no TLS certificate with its key: %w", p.certificateFile, p.keyFile, err)
	}
	if pair.Leaf == nil {
		if pair.Leaf, err = x509.ParseCertificate(pair.Certificate[0]); err != nil {
			return keypath.Errorf([]string{"tls", "certificate"}, "%s: %w", p.certificateFile, err)
		}
	}
	if now := time.Now(); now.After(pair.Leaf.NotAfter) {
		return keypath.Errorf([]string{"tls", "certificate"}, "%s ended at %s; renew it", p.certificateFile, pair.Leaf.NotAfter.UTC().Format(time.RFC3339))
	}
	p.current.Store(&pair)
	return nil
}

// readPEMText returns the PEM blocks of a file without the text around them.
func readPEMText(name string) (text []byte, err error) {
	content, err := readFile(name)
	if err != nil {
		return nil, err
	}
	blocks, _, err := pem.Blocks(content)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	for _, block := range blocks {
		text = append(text, pem.Encode(block.Type, block.Bytes)...)
	}
	return text, nil
}

func (p *certificatePair) get(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	pair := p.current.Load()
	if pair == nil {
		return nil, fmt.Errorf("no TLS certificate is loaded")
	}
	return pair, nil
}

// Describe and Collect publish the expiry of the pair as a metric.
func (p *certificatePair) Describe(ch chan<- *prometheus.Desc) { ch <- tlsExpiryDesc() }

// Collect implements prometheus.Collector.
func (p *certificatePair) Collect(ch chan<- prometheus.Metric) {
	if pair := p.current.Load(); pair != nil {
		ch <- prometheus.MustNewConstMetric(tlsExpiryDesc(), prometheus.GaugeValue, time.Until(pair.Leaf.NotAfter).Seconds())
	}
}

func tlsExpiryDesc() *prometheus.Desc {
	return prometheus.NewDesc("mayfly_tls_certificate_seconds_to_expiry", "Seconds until the listeners' TLS certificate ends; negative once it has.", nil, nil)
}
