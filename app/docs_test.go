// SPDX-License-Identifier: Apache-2.0

package app_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/mayfly-ca/mayfly/app"
	"github.com/mayfly-ca/mayfly/config"
)

// Every block of docs/issuers.md is an issuer file without a mistake or a warning, and the
// tests in it pass.
func TestIssuersDocument(t *testing.T) {
	t.Parallel()
	document, err := os.ReadFile("../docs/issuers.md")
	if err != nil {
		t.Fatal(err)
	}
	shipped, err := os.ReadFile("../config/issuers.yaml")
	if err != nil {
		t.Fatal(err)
	}
	_, templates, found := strings.Cut(string(shipped), "\nci-issuer-metadata:\n")
	if !found {
		t.Fatal("config/issuers.yaml has no ci-issuer-metadata")
	}
	heading, blocks := "", 0
	for _, part := range strings.Split(string(document), "\n#") {
		heading, _, _ = strings.Cut(strings.TrimLeft(part, "# "), "\n")
		for _, block := range strings.Split(part, "\n```yaml\n")[1:] {
			block, _, closed := strings.Cut(block, "\n```\n")
			if !closed {
				t.Fatalf("%s: a block has no end", heading)
			}
			blocks++
			if strings.Contains(block, "ci-provider") && !strings.Contains(block, "ci-issuer-metadata") {
				block += "\nci-issuer-metadata:\n" + templates
			}
			file := filepath.Join(t.TempDir(), "issuers.yaml")
			if err := os.WriteFile(file, []byte(block), 0o600); err != nil {
				t.Fatal(err)
			}
			report, err := app.Check(t.Context(), app.CheckOptions{File: file})
			if err != nil {
				t.Fatal(err)
			}
			for _, wrong := range append(report.Mistakes, report.Warnings...) {
				t.Errorf("%s: %v", heading, wrong)
			}
			if report.Tests < report.Entries || report.Tests == 0 {
				t.Errorf("%s: %d tests for %d entries", heading, report.Tests, report.Entries)
			}
		}
	}
	for _, provider := range []string{
		"Google Workspace", "Entra ID", "Okta", "Keycloak", "Dex", "GitHub\n", "GitHub Enterprise Server", "GitLab\n", "GitLab of your own",
		"Buildkite", "CircleCI", "Jenkins", "EKS, GKE and AKS", "K3s", "The cluster that mayfly runs in", "SPIFFE", "AWS",
	} {
		if !strings.Contains(string(document), "# "+provider) && !strings.Contains(string(document), "# Microsoft "+provider) {
			t.Errorf("%q has no section", provider)
		}
	}
	if blocks < 18 {
		t.Errorf("the document has %d blocks only", blocks)
	}
}

// Every block of docs/signers.md that names a signer is read as part of a CA set. There is one for
// each kind that a binary can be built with.
func TestSignersDocument(t *testing.T) {
	t.Parallel()
	document, err := os.ReadFile("../docs/signers.md")
	if err != nil {
		t.Fatal(err)
	}
	const entry = "generation: 1\nauthorities:\n  - id: 2026-a\n    chain: chain.pem\n    publish_at: 2026-11-01T00:00:00Z\n"
	kinds := map[string]bool{}
	for _, block := range strings.Split(string(document), "\n```yaml\n")[1:] {
		block, _, closed := strings.Cut(block, "\n```\n")
		if !closed {
			t.Fatal("a block has no end")
		}
		switch {
		case strings.HasPrefix(block, "signer:"):
			block = entry + "    " + strings.ReplaceAll(block, "\n", "\n    ")
		case strings.HasPrefix(block, "authorities:"):
			block = "generation: 1\n" + block
		case strings.HasPrefix(block, "# mayfly.yaml"):
			if _, _, err := config.ParseServer("mayfly.yaml", []byte(block+"\nissuers: i\nct: {disabled: true}\n"), nil); err != nil {
				t.Errorf("%v in\n%s", err, block)
			}
			continue
		}
		set, _, err := config.ParseCASet("ca.yaml", []byte(block))
		if err != nil {
			t.Errorf("%v in\n%s", err, block)
			continue
		}
		kinds[set.Authorities[0].Signer.Kind()] = true
	}
	for _, kind := range []string{"file", "pkcs11", "awskms", "gcpkms", "azurekms", "hashivault"} {
		if !kinds[kind] {
			t.Errorf("no block for %s", kind)
		}
	}
}
