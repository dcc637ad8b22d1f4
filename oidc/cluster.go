// SPDX-License-Identifier: Apache-2.0

package oidc

import (
	"bytes"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"sync"
)

// clusterTransport reaches a Kubernetes API server from inside its cluster: with the
// cluster's CA, and with the pod's token, which goes to the issuer's own origin alone.
type clusterTransport struct {
	caFile, tokenFile string
	issuerURL         string
	extraCA           []byte // PEM
	open              func(roots *x509.CertPool) http.RoundTripper

	mu        sync.Mutex // guards what follows
	ca        []byte     // what transport was made with
	transport http.RoundTripper
}

// RoundTrip implements http.RoundTripper.
func (c *clusterTransport) RoundTrip(req *http.Request) (*http.Response, error) {
	transport, err := c.current()
	if err != nil {
		return nil, err
	}
	issuer, err := url.Parse(c.issuerURL)
	if err != nil {
		return nil, fmt.Errorf("parsing issuer URL: %w", err)
	}
	if origin(req.URL) == origin(issuer) {
		token, err := readSmallFile(c.tokenFile)
		if err != nil {
			return nil, fmt.Errorf("reading service account token: %w", err)
		}
		req = req.Clone(req.Context()) // a RoundTripper must not change its request
		req.Header.Set("Authorization", "Bearer "+string(bytes.TrimSpace(token)))
	}
	return transport.RoundTrip(req)
}

// current returns the transport for the CA file as it is now.
func (c *clusterTransport) current() (http.RoundTripper, error) {
	ca, err := readSmallFile(c.caFile)
	if err != nil {
		return nil, fmt.Errorf("reading cluster CA: %w", err)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.transport != nil && bytes.Equal(ca, c.ca) {
		return c.transport, nil
	}
	roots := systemRoots()
	if !roots.AppendCertsFromPEM(ca) {
		return nil, errors.New("reading cluster CA: no PEM certificate in the file")
	}
	roots.AppendCertsFromPEM(c.extraCA)
	if old, ok := c.transport.(interface{ CloseIdleConnections() }); ok {
		old.CloseIdleConnections()
	}
	c.ca, c.transport = ca, c.open(roots)
	return c.transport, nil
}

// readSmallFile reads a file of at most maxDocument bytes.
func readSmallFile(name string) ([]byte, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	content, err := io.ReadAll(io.LimitReader(f, maxDocument+1))
	if err == nil && len(content) > maxDocument {
		err = fmt.Errorf("%s exceeds %d bytes", name, maxDocument)
	}
	return content, err
}
