// SPDX-License-Identifier: Apache-2.0

package oidc

import (
	"bytes"
	"crypto/x509"
	"fmt"
	"net/http"
	"net/netip"
	"net/url"
	"sync"

	"github.com/mayfly-ca/mayfly/internal/files"
	"github.com/mayfly-ca/mayfly/internal/pem"
)

// isAPIServer reports whether issuer is the API server of the cluster that this process runs in.
// Only that server gets the pod's token. Issuers of other clusters, such as those on hosts of
// clouds, get no token: a reader of their traffic could use it to act in our cluster. The issuer is
// the API server if it is a static Kubernetes entry at
//
//   - https://kubernetes.default.svc or https://kubernetes.default.svc.cluster.local, which
//     the cluster's own name service resolves,
//   - the origin of apiServer, which the operator has configured, or
//   - a loopback or private IP address, if https://kubernetes.default.svc is configured too
//     (inCluster) and the entry has neither ca-cert nor allow-private-network, which show
//     that it belongs to another cluster.
//
// In every case the server must present a certificate of the cluster's CA before it gets the token:
// see clusterTransport.
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

// clusterTransport connects to a Kubernetes API server from inside its cluster. It trusts only the
// cluster's CA (and the entry's own), and sends the pod's token only to the issuer's own origin.
type clusterTransport struct {
	caFile, tokenFile string
	issuerURL         string
	extraCA           []byte // PEM
	open              func(roots *x509.CertPool) http.RoundTripper

	mu        sync.Mutex // guards the fields below
	ca        []byte     // CA file that transport uses
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
		token, err := files.Read(c.tokenFile, maxDocument)
		if err != nil {
			return nil, fmt.Errorf("reading service account token: %w", err)
		}
		if token, err = files.Text(token); err != nil {
			return nil, fmt.Errorf("reading service account token: %s: %w", c.tokenFile, err)
		}
		if token = bytes.TrimSpace(token); len(token) == 0 {
			return nil, fmt.Errorf("reading service account token: %s is empty", c.tokenFile)
		}
		req.Header.Set("Authorization", "Bearer "+string(token))
	}
	return transport.RoundTrip(req)
}

// current returns the transport for the present content of the CA file.
func (c *clusterTransport) current() (http.RoundTripper, error) {
	ca, err := files.Read(c.caFile, maxDocument)
	if err != nil {
		return nil, fmt.Errorf("reading cluster CA: %w", err)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.transport != nil && bytes.Equal(ca, c.ca) {
		return c.transport, nil
	}
	// Without the system's roots, which sign certificates for any name.
	roots := x509.NewCertPool()
	if err := pem.CertPool(roots, ca); err != nil {
		return nil, fmt.Errorf("reading cluster CA: %s: %w", c.caFile, err)
	}
	if len(c.extraCA) > 0 {
		if err := pem.CertPool(roots, c.extraCA); err != nil {
			return nil, fmt.Errorf("reading ca-cert: %w", err)
		}
	}
	if old, ok := c.transport.(interface{ CloseIdleConnections() }); ok {
		old.CloseIdleConnections()
	}
	c.ca, c.transport = ca, c.open(roots)
	return c.transport, nil
}
