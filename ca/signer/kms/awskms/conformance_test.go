// SPDX-License-Identifier: Apache-2.0

package awskms_test

import (
	"context"
	"crypto/elliptic"
	"testing"

	"github.com/mayfly-ca/mayfly/ca/signer"
	"github.com/mayfly-ca/mayfly/ca/signer/kms/awskms"
	"github.com/mayfly-ca/mayfly/ca/signer/kms/kmstest"
	"github.com/mayfly-ca/mayfly/ca/signer/signertest"
)

func TestMain(m *testing.M) { kmstest.Main(m) }

func opener(uri string) func(context.Context) (signer.Key, error) {
	return func(ctx context.Context) (signer.Key, error) { return awskms.Open(ctx, awskms.Config{URI: uri}) }
}

func TestConformance(t *testing.T) {
	internet := kmstest.NewInternet(t)
	aws := kmstest.NewAWS(internet, "eu-north-1")
	aws.Setenv(t)
	key, rsa := kmstest.ECDSA(t, elliptic.P256()), kmstest.RSA(t, 2048)
	uri := "awskms:///" + aws.Add(key, "")
	signertest.Run(t, signertest.Place{
		Public: key.Public(), Open: opener(uri), Secrets: []string{aws.Secret()},
		Faults: []signertest.Fault{
			internet.Down("AWS KMS is not reached", "connection refused", "kms.uri"),
			aws.Fault("slow", kmstest.Trouble{Hangs: true}, true, "there was no answer in time"),
			aws.Fault("forbidden", kmstest.Trouble{Status: 403}, false, uri+" (kms.uri)", "AccessDeniedException", "kms:Sign, kms:GetPublicKey and kms:DescribeKey"),
			aws.Fault("overloaded", kmstest.Trouble{Status: 429}, true, "AWS KMS fails", "ThrottlingException", uri+" (kms.uri)"),
			aws.Fault("broken", kmstest.Trouble{Status: 500}, true, "AWS KMS fails", "KMSInternalException"),
			aws.Fault("bad gateway", kmstest.Trouble{Status: 502, RetryAfter: 1}, true, "AWS KMS fails"),
			aws.Fault("lies", kmstest.Trouble{Lies: true}, false, "it signed", "does not verify"),
		},
		Mistakes: []signertest.Mistake{
			{Name: "unknown key", Open: opener("awskms:///arn:aws:kms:eu-north-1:111122223333:key/1234abcd-12ab-34cd-56ef-1234567890ab"), Wants: []string{"AWS KMS knows no key", "1234abcd-12ab-34cd-56ef-1234567890ab", "kms.uri"}},
			{Name: "other type", Open: opener("awskms:///" + aws.Add(rsa, "")), Wants: []string{"an RSA key of 2048 bits", "an ECDSA key on P-256"}},
			{Name: "key that encrypts", Open: opener("awskms:///" + aws.AddEncryption(rsa)), Wants: []string{"SIGN_VERIFY", "kms.uri"}},
			{Name: "malformed URI", Open: opener("awskms://alias-without-endpoint"), Wants: []string{`uri: "awskms://alias-without-endpoint" should be awskms:///KEY`}},
			{Name: "no region", Open: opener("awskms:///alias/ca"), Wants: []string{"uri: awskms:///alias/ca names no region", "AWS_REGION"}},
		},
	})
}

func TestOtherKeys(t *testing.T) {
	aws := kmstest.NewAWS(kmstest.NewInternet(t), "us-east-1")
	aws.Setenv(t)
	t.Setenv("AWS_REGION", "us-east-1")
	p384, p521, rsa := kmstest.ECDSA(t, elliptic.P384()), kmstest.ECDSA(t, elliptic.P521()), kmstest.RSA(t, 3072)
	aws.Add(p384, "ca")
	kmstest.SelfTest(t, p384.Public(), opener("awskms:///alias/ca"))
	kmstest.SelfTest(t, p521.Public(), opener("awskms:///"+aws.Add(p521, "")))
	kmstest.SelfTest(t, rsa.Public(), opener("awskms://kms.us-east-1.amazonaws.com/"+aws.Add(rsa, "")))
}

func TestWrongEnvironment(t *testing.T) {
	aws := kmstest.NewAWS(kmstest.NewInternet(t), "us-east-1")
	key := kmstest.RSA(t, 2048)
	uri := "awskms:///" + aws.Add(key, "")
	pss := "awskms:///" + aws.Add(key, "", "RSASSA_PSS_SHA_256")
	sha512 := "awskms:///" + aws.Add(key, "", "RSASSA_PKCS1_V1_5_SHA_512")
	for _, c := range []struct {
		name, uri, variable, value string
		wants                      []string
	}{
		{"no credentials", uri, "AWS_ACCESS_KEY_ID", "", []string{"AWS KMS does not accept the credentials", "AWS_ACCESS_KEY_ID"}},
		{"unknown credentials", uri, "AWS_ACCESS_KEY_ID", "AKIAANOTHER", []string{"UnrecognizedClientException", "AWS_ACCESS_KEY_ID"}},
		{"wrong secret", uri, "AWS_SECRET_ACCESS_KEY", "another-secret", []string{"InvalidSignatureException", "AWS_SECRET_ACCESS_KEY"}},
		{"no verification", uri, "AWS_TLS_INSECURE_SKIP_VERIFY", "1", []string{"AWS_TLS_INSECURE_SKIP_VERIFY", "unset it"}},
		{"PSS", pss, "AWS_REGION", "eu-north-1", []string{"it signed", "another scheme than SHA256-RSA"}},
		{"other hash", sha512, "AWS_REGION", "", []string{"uri: ", "SHA-512", "SHA-256"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			aws.Setenv(t)
			t.Setenv(c.variable, c.value)
			kmstest.SelfTest(t, key.Public(), opener(c.uri), c.wants...)
		})
	}
}
