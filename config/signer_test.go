// SPDX-License-Identifier: Apache-2.0

package config

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// Every kind of signer is parsed from its form in a file, and written back.
func TestParseSigner(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]Signer{
		"{file: {key: a/key.pem, password_file: a/pass}}": {File: &SignerFile{Key: "dir/a/key.pem", PasswordFile: "dir/a/pass"}},
		`{pkcs11: {module: /lib/p11.so, token: mayfly, label: 2026-a, id: "01ab", pin_file: pin}}`: {
			PKCS11: &SignerPKCS11{Module: "/lib/p11.so", Token: "mayfly", Label: "2026-a", ID: "01ab", PINFile: "dir/pin"}},
		"{kms: {uri: 'awskms:///alias/mayfly'}}": {KMS: &SignerKMS{URI: "awskms:///alias/mayfly"}},
		"{kms: {uri: 'hashivault://mayfly', version: 2, address: 'https://vault.example:8200', token_file: token, mount: pki}}": {
			KMS: &SignerKMS{URI: "hashivault://mayfly", Version: 2, Address: "https://vault.example:8200", TokenFile: "dir/token", Mount: "pki"}},
	} {
		got, err := ParseSigner("s", []byte(text), "dir")
		if err != nil {
			t.Errorf("%s: %v", text, err)
			continue
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", text, diff)
		}
		flow, err := got.Flow("dir")
		if err != nil {
			t.Fatal(err)
		}
		again, err := ParseSigner("s", []byte(flow), "dir")
		if err != nil || strings.Contains(flow, "dir/") || strings.Contains(flow, "\n") {
			t.Errorf("%s is written as %s: %v", text, flow, err)
		}
		if diff := cmp.Diff(got, again); diff != "" {
			t.Errorf("%s is written as %s (-want +got):\n%s", text, flow, diff)
		}
	}
}

func TestSignerSocketNeedsASet(t *testing.T) {
	t.Parallel()
	const rest = "issuers: i\nct: {disabled: true}\n"
	_, _, err := ParseServer("s", []byte("ca: {file: {chain: c, key: k}, signer_socket: x}\n"+rest), nil)
	if err == nil || !strings.Contains(err.Error(), "s:1:47: ca.signer_socket is for the keys of a CA set") {
		t.Errorf("got error %v", err)
	}
	server, _, err := ParseServer("dir/s", []byte("ca: {set: c, signer_socket: x}\n"+rest), nil)
	if err != nil || server.CA.SignerSocket != "dir/x" {
		t.Errorf("got %+v, error %v", server, err)
	}
}
