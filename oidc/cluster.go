// SPDX-License-Identifier: Apache-2.0

package oidc

import (
	"bytes"
	"crypto/x509"
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"net/url"

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
	return (privateAddresses | loopbackAddresses).contain(addr)
}

// clusterTransport connects to a Kubernetes API server from inside its cluster. It trusts only the
// cluster's CA (and the entry's own), and sends the pod's token only to the issuer's own origin. It
// reads both files for each request.
type clusterTransport struct {
	caFile, tokenFile string
	origin            string // of the issuer
	extraCA           []byte // PEM
	open              func(roots *x509.CertPool) http.RoundTripper
}

// RoundTrip implements http.RoundTripper.
func (c *clusterTransport) RoundTrip(req *http.Request) (*http.Response, error) {
	// Without the system's roots, which sign certificates for any name.
	roots := x509.NewCertPool()
	ca, err := files.Read(c.caFile, maxDocument)
	if err == nil {
		err = pem.CertPool(roots, ca)
	}
	if err != nil {
		return nil, fmt.Errorf("reading cluster CA: %s: %w", c.caFile, err)
	}
	if len(c.extraCA) > 0 {
		if err := pem.CertPool(roots, c.extraCA); err != nil {
			return nil, fmt.Errorf("reading ca-cert: %w", err)
		}
	}
	req = req.Clone(req.Context()) // a RoundTripper must not change its request
	if origin(req.URL) == c.origin {
		token, err := files.Read(c.tokenFile, maxDocument)
		if err == nil {
			token, err = files.Text(token)
		}
		if token = bytes.TrimSpace(token); err == nil && len(token) == 0 {
			err = errors.New("the file is empty")
		}
		if err != nil {
			return nil, fmt.Errorf("reading service account token: %s: %w", c.tokenFile, err)
		}
		req.Header.Set("Authorization", "Bearer "+string(token))
	}
	return c.open(roots).RoundTrip(req)
}
