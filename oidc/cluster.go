// SPDX-License-Identifier: Apache-2.0

package oidc

import (
	"bytes"
	"crypto/x509"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"sync"

	"github.com/mayfly-ca/mayfly/internal/textfile"
)

// isAPIServer tells whether issuer is the API server of the cluster that this process runs
// in, which gets the pod's token. Other clusters' issuers, as those that clouds publish on
// hosts of theirs, get none: with it, whoever reads their traffic could act in our cluster. It
// is, if it is a static Kubernetes entry at
//
//   - https://kubernetes.default.svc or https://kubernetes.default.svc.cluster.local, which
//     the cluster's own name service answers for,
//   - the origin of apiServer, which the operator has named, or
//   - a loopback or private IP address, once https://kubernetes.default.svc is configured too
//     (inCluster), unless the entry has keys of its own for it: ca-cert or
//     allow-private-network say that it is another cluster's.
//
// In every case the server must show a certificate of the cluster's CA before it gets the
// token: see clusterTransport.
func isAPIServer(issuer Issuer, apiServer string, inCluster bool) bool {
	u, err := url.Parse(issuer.URL)
	if err != nil || !issuer.Kubernetes || u.Scheme != "https" || u.Host == "" {
		return false
	}
	if named, err := url.Parse(apiServer); err == nil && apiServer != "" && origin(named) == origin(u) {
		return true
	}
	switch origin(u) {
	case inClusterURL, inClusterURL + ".cluster.local":
		return true
	}
	addr, err := netip.ParseAddr(u.Hostname())
	if err != nil || !inCluster || issuer.AllowPrivateNetwork || len(issuer.CACert) > 0 {
		return false
	}
	inner := newAddressPolicy()
	inner.public, inner.private, inner.loopback = false, true, true
	return inner.allows(addr)
}

// clusterTransport reaches a Kubernetes API server from inside its cluster: with the
// cluster's CA alone (and the entry's own), and with the pod's token, which goes to the
// issuer's own origin alone.
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
	req = req.Clone(req.Context()) // a RoundTripper must not change its request
	issuer, err := url.Parse(c.issuerURL)
	if err != nil {
		return nil, fmt.Errorf("parsing issuer URL: %w", err)
	}
	if origin(req.URL) == origin(issuer) {
		token, err := readSmallFile(c.tokenFile)
		if err != nil {
			return nil, fmt.Errorf("reading service account token: %w", err)
		}
		if token, err = textfile.Plain(token); err != nil {
			return nil, fmt.Errorf("reading service account token: %s: %w", c.tokenFile, err)
		}
		if token = bytes.TrimSpace(token); len(token) == 0 {
			return nil, fmt.Errorf("reading service account token: %s is empty", c.tokenFile)
		}
		req.Header.Set("Authorization", "Bearer "+string(token))
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
	// Not the system's: they vouch for anybody's names.
	roots := x509.NewCertPool()
	if err := textfile.CertPool(roots, ca); err != nil {
		return nil, fmt.Errorf("reading cluster CA: %s: %w", c.caFile, err)
	}
	if len(c.extraCA) > 0 {
		if err := textfile.CertPool(roots, c.extraCA); err != nil {
			return nil, fmt.Errorf("reading ca-cert: %w", err)
		}
	}
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
