// SPDX-License-Identifier: Apache-2.0

package gcpkms_test

import (
	"context"
	"crypto/elliptic"
	"fmt"
	"runtime"
	"strings"
	"testing"

	"github.com/mayfly-ca/mayfly/ca/signer"
	"github.com/mayfly-ca/mayfly/ca/signer/kms/gcpkms"
	"github.com/mayfly-ca/mayfly/ca/signer/kms/kmstest"
	"github.com/mayfly-ca/mayfly/ca/signer/signertest"
)

func TestMain(m *testing.M) { kmstest.Main(m) }

func opener(uri string) func(context.Context) (signer.Key, error) {
	return func(ctx context.Context) (signer.Key, error) { return gcpkms.Open(ctx, gcpkms.Config{URI: uri}) }
}

func TestConformance(t *testing.T) {
	internet := kmstest.NewInternet(t)
	google := kmstest.NewGoogle(internet)
	google.Setenv(t, true)
	key := kmstest.ECDSA(t, elliptic.P256())
	uri := "gcpkms://" + google.Add("ca", key)
	google.Add("ca", kmstest.ECDSA(t, elliptic.P256())) // a rotation, which changes nothing
	other := "gcpkms://" + google.Add("rsa", kmstest.RSA(t, 2048))
	signertest.Run(t, signertest.Place{
		Public: key.Public(), Open: opener(uri), Secrets: []string{"PRIVATE KEY", "Bearer"},
		Faults: []signertest.Fault{
			internet.Down("Google Cloud KMS fails", "connection refused", uri+" (kms.uri)"),
			google.Fault("slow", kmstest.Trouble{Hangs: true}, true, "there was no answer in time"),
			google.Fault("forbidden", kmstest.Trouble{Status: 403}, false, uri+" (kms.uri)", "PermissionDenied", "roles/cloudkms.signerVerifier and roles/cloudkms.viewer"),
			google.Fault("overloaded", kmstest.Trouble{Status: 429, RetryAfter: 1}, true, "Google Cloud KMS fails", "ResourceExhausted", uri+" (kms.uri)"),
			google.Fault("broken", kmstest.Trouble{Status: 500}, true, "Google Cloud KMS fails", "Internal"),
			google.Fault("unavailable", kmstest.Trouble{Status: 503}, true, "Google Cloud KMS fails", "Unavailable"),
			google.Fault("lies", kmstest.Trouble{Lies: true}, false, "it signed", "does not verify"),
		},
		Mistakes: []signertest.Mistake{
			{Name: "unknown key", Open: opener(strings.Replace(uri, "/ca/", "/none/", 1)), Wants: []string{"Google Cloud KMS knows no key", "cryptoKeys/none", "kms.uri"}},
			{Name: "unknown version", Open: opener(strings.TrimSuffix(uri, "1") + "7"), Wants: []string{"Google Cloud KMS knows no key", "cryptoKeyVersions/7", "kms.uri"}},
			{Name: "other version", Open: opener(strings.TrimSuffix(uri, "1") + "2"), Wants: []string{"it is not the key of the authority's certificate"}},
			{Name: "other type", Open: opener(other), Wants: []string{"an RSA key of 2048 bits", "an ECDSA key on P-256"}},
			{Name: "no version", Open: opener(strings.TrimSuffix(uri, "/cryptoKeyVersions/1")), Wants: []string{"uri: ", "names no version", "/cryptoKeyVersions/N"}},
			{Name: "malformed URI", Open: opener("gcpkms://ca"), Wants: []string{`uri: "gcpkms://ca" should be gcpkms://projects/P`}},
		},
	})
}

func TestOtherKeys(t *testing.T) {
	google := kmstest.NewGoogle(kmstest.NewInternet(t))
	google.Setenv(t, true)
	p384, rsa2048, rsa3072 := kmstest.ECDSA(t, elliptic.P384()), kmstest.RSA(t, 2048), kmstest.RSA(t, 3072)
	kmstest.SelfTest(t, p384.Public(), opener("gcpkms://"+google.Add("p384", p384)))
	kmstest.SelfTest(t, rsa2048.Public(), opener("gcpkms://"+google.Add("rsa2048", rsa2048)))
	kmstest.SelfTest(t, rsa3072.Public(), opener("gcpkms://"+google.Add("rsa3072", rsa3072)))
	kmstest.SelfTest(t, rsa2048.Public(), opener("gcpkms://"+google.Add("pss", rsa2048)), "it signed", "another scheme than SHA256-RSA")
	kmstest.SelfTest(t, rsa2048.Public(), opener("gcpkms://"+google.Add("sha512", rsa2048)), "uri: ", "SHA-512", "SHA-256")
	kmstest.SelfTest(t, p384.Public(), opener("gcpkms://"+google.Add("unchecked", p384)), "the answer has no checksum")
}

func TestWrongCredentials(t *testing.T) {
	google := kmstest.NewGoogle(kmstest.NewInternet(t))
	key := kmstest.ECDSA(t, elliptic.P256())
	open := opener("gcpkms://" + google.Add("ca", key))
	t.Setenv("GOOGLE_APPLICATION_CREDENTIALS", "/none.json")
	kmstest.SelfTest(t, key.Public(), open, "does not accept the credentials", "/none.json", "GOOGLE_APPLICATION_CREDENTIALS")
	google.Setenv(t, false)
	kmstest.SelfTest(t, key.Public(), open, "does not accept the credentials", "Unauthenticated", "GOOGLE_APPLICATION_CREDENTIALS")
	google.Setenv(t, true)
	kmstest.SelfTest(t, key.Public(), open)
}

// TestNothingStays checks that keys that are closed, or that could not be opened, leave no
// connection behind: during an outage a key is opened every second.
func TestNothingStays(t *testing.T) {
	google := kmstest.NewGoogle(kmstest.NewInternet(t))
	google.Setenv(t, true)
	uri := "gcpkms://" + google.Add("ca", kmstest.ECDSA(t, elliptic.P256()))
	before := runtime.NumGoroutine()
	const times = 20
	for range times {
		key, err := gcpkms.Open(t.Context(), gcpkms.Config{URI: uri})
		if err != nil {
			t.Fatal(err)
		}
		if err := key.Close(); err != nil {
			t.Error(err)
		}
		if _, err := gcpkms.Open(t.Context(), gcpkms.Config{URI: uri + "0"}); err == nil {
			t.Error("a version that there is not opens")
		}
	}
	signertest.Await(t, "the end of what was opened", func() error {
		if now := runtime.NumGoroutine(); now > before+times/2 {
			return fmt.Errorf("%d goroutines, and %d before", now, before)
		}
		return nil
	})
}
