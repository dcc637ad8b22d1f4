// SPDX-License-Identifier: Apache-2.0

package dev

import (
	"maps"
	"path/filepath"

	"github.com/mayfly-ca/mayfly/internal/files"
)

// URL is the world's URL, without a slash at the end: REST and gRPC of the CA.
func (w *World) URL() string { return w.url }

// IssuerURL is the URL of the issuer that the CA trusts.
func (w *World) IssuerURL() string { return w.url + providerPath }

// TokenURL is the URL at which scripts get ID tokens.
func (w *World) TokenURL() string { return w.url + tokenPath }

// TimestampURL is the URL for timestamp requests.
func (w *World) TimestampURL() string { return w.url + timestampPath }

// RekorURL is the base URL of the Rekor v2 log.
func (w *World) RekorURL() string { return w.url + rekorPath }

// TUFMirror is the URL of the TUF repository; its root of trust is root.json there.
func (w *World) TUFMirror() string { return w.url + tufPath }

// TUFRoot is the first root of trust of the TUF repository.
func (w *World) TUFRoot() ([]byte, error) {
	return files.Read(filepath.Join(w.dir, tufFolder, "root.json"), maxFile)
}

// TrustedRoot is trusted_root.json.
func (w *World) TrustedRoot() ([]byte, error) { return w.app.Instance().TrustedRoot() }

// SigningConfig is signing_config.v0.2.json.
func (w *World) SigningConfig() ([]byte, error) { return w.app.Instance().SigningConfig() }

// Token returns an ID token with claims. It adds the other claims of a person's token if they are
// absent.
func (w *World) Token(claims map[string]any) (string, error) {
	all := make(map[string]any)
	maps.Copy(all, claims)
	return w.provider.Mint(complete(all))
}
