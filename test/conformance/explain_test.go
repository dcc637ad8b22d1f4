// SPDX-License-Identifier: Apache-2.0

package conformance

import (
	"crypto/x509"
	"encoding/pem"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/mayfly-ca/mayfly/app"
	"github.com/mayfly-ca/mayfly/certs"
)

// explained counts the tokens for which explain and serve have been compared.
var explained atomic.Int64

// explain compares the result of `mayfly explain` for a token with the answer that serve has just
// given: the same refusal, or the same certificate. explain does not see the key and the proof, so
// a refusal because of them means that the token was accepted.
func (c *ca) explain(t *testing.T, token string, g got) {
	t.Helper()
	if c != w.logged || g.api != restV2 || token == "" { // the same token gets the same answer elsewhere
		return
	}
	want := g.reason
	switch {
	case g.http < 300:
		want = ""
	case strings.HasPrefix(want, "KEY_"), want == "PROOF_INVALID", want == "CSR_INVALID":
		want = ""
	case want == "REQUEST_MALFORMED", want == "OVERLOADED", g.http >= 500:
		return // the answer is not about the token, or depends on the moment
	}
	x, err := app.Explain(t.Context(), app.ExplainOptions{File: filepath.Join(w.dir, c.name+".yaml"), Token: token})
	if err != nil {
		t.Errorf("explain: %v", err)
		return
	}
	explained.Add(1)
	if x.Reason != want {
		t.Errorf("explain says %q (%s), serve %d %q (%s)", x.Reason, x.Message, g.http, g.reason, g.message)
		return
	}
	if g.http >= 300 || len(g.certs) == 0 {
		return
	}
	block, _ := pem.Decode([]byte(g.certs[0]))
	leaf := must(x509.ParseCertificate(block.Bytes))
	extensions := must(certs.ParseExtensions(leaf.Extensions))
	var found []app.ExplainedProperty
	for extension, value := range extensions.All() {
		found = append(found, app.ExplainedProperty{Name: extension.Name, Value: value})
	}
	if san := must(certs.SANOf(leaf)); x.Certificate == nil || x.Certificate.SAN != san.Value || !slices.Equal(x.Certificate.Extensions, found) {
		t.Errorf("explain says %+v, the certificate %s %v", x.Certificate, san.Value, found)
	}
}
