// SPDX-License-Identifier: Apache-2.0

package clients

import (
	"testing"

	"github.com/sigstore/sigstore-go/pkg/fulcio/certificate"
	"github.com/sigstore/sigstore-go/pkg/root"
	"github.com/sigstore/sigstore-go/pkg/sign"

	"github.com/mayfly-ca/mayfly/mayflytest"
)

// Client authors have a separate module, as this is one, and start a world in one line.
func TestMayflytest(t *testing.T) {
	t.Parallel()
	world := mayflytest.New(t)
	trusted, err := root.NewTrustedRootFromJSON(world.TrustedRoot())
	if err != nil {
		t.Fatal(err)
	}
	signing, err := root.NewSigningConfigFromJSON(world.SigningConfig())
	if err != nil {
		t.Fatal(err)
	}
	c := &goClient{trusted: trusted, signing: signing, rekor: true}
	for _, content := range []sign.Content{
		&sign.PlainData{Data: blob},
		&sign.DSSEData{Data: []byte(statement), PayloadType: "application/vnd.in-toto+json"},
	} {
		b := c.mustSign(t, world.Token(alice), content, 0)
		c.mustVerify(t, b, identity(t, world.IssuerURL, alice, certificate.Extensions{}))
	}
}
