// SPDX-License-Identifier: Apache-2.0

package app

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/mayfly-ca/mayfly/internal/keypath"
	"github.com/mayfly-ca/mayfly/internal/pem"
	"github.com/mayfly-ca/mayfly/internal/watch"
	"github.com/mayfly-ca/mayfly/server"
)

// certificatePair is the listeners' TLS certificate with its key. A handshake uses the newest pair
// that loaded.
type certificatePair struct {
	certificateFile, keyFile string
	current                  atomic.Pointer[tls.Certificate]
}

// urgentExpiry is that of the alert MayflyTLSCertificateEnds.
const urgentExpiry = 48 * time.Hour

// tlsConfig returns nil where TLS is not configured. The certificate is loaded again when its files
// change.
func (a *App) tlsConfig() (*tls.Config, error) {
	if a.Config.TLS.Certificate == "" {
		return nil, nil
	}
	pair := &certificatePair{certificateFile: a.Config.TLS.Certificate, keyFile: a.Config.TLS.Key}
	watcher := a.watch(watch.Config{
		Name: "TLS certificate", Files: func() []string { return []string{pair.certificateFile, pair.keyFile} }, Reload: pair.load,
		Metric: "mayfly_tls", FailedMetric: "mayfly_tls_reload_failed",
	})
	if err := pair.load(); err != nil {
		return nil, err
	}
	a.tlsCheck = append(a.tlsCheck, server.Check{Name: "tls-certificate", Runbook: "docs/operations.md#the-tls-certificate-ends", Probe: func(context.Context) (string, error) {
		end := pair.current.Load().Leaf.NotAfter
		err := watcher.Failure()
		if left := time.Until(end); left < urgentExpiry {
			err = errors.Join(err, fmt.Errorf("it ends in %s; renew the files, which the server reads by itself", left.Round(time.Minute)))
		}
		return "valid until " + end.UTC().Format(time.RFC3339), err
	}})
	const expiry = "mayfly_tls_certificate_seconds_to_expiry"
	a.registry.MustRegister(newScraped(func(set setGauge) { set(expiry, time.Until(pair.current.Load().Leaf.NotAfter).Seconds()) },
		gauge{expiry, "Seconds until the listeners' TLS certificate expires; negative once it has.", nil}))
	minimum := uint16(tls.VersionTLS13)
	if a.Config.TLS.Min == "1.2" {
		minimum = tls.VersionTLS12
	}
	return &tls.Config{MinVersion: minimum, GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) {
		return pair.current.Load(), nil
	}}, nil
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
	pair, err := tls.X509KeyPair(certificate, key) // sets Leaf
	if err != nil {
		return keypath.Errorf([]string{"tls", "certificate"}, "%s and %s are no TLS certificate with its key: %w", p.certificateFile, p.keyFile, err)
	}
	if time.Now().After(pair.Leaf.NotAfter) {
		return keypath.Errorf([]string{"tls", "certificate"}, "%s expired at %s; renew it", p.certificateFile, pair.Leaf.NotAfter.UTC().Format(time.RFC3339))
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
