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

// yamlBlocks returns the blocks of YAML in a document.
func yamlBlocks(t *testing.T, document string) (blocks []string) {
	t.Helper()
	for _, block := range strings.Split(document, "\n```yaml\n")[1:] {
		block, _, closed := strings.Cut(block, "\n```\n")
		if !closed {
			t.Fatalf("a block has no end: %s", block)
		}
		blocks = append(blocks, block)
	}
	return blocks
}

// Every block of docs/issuers.md is an issuer file without a mistake or a warning, and the
// tests in it pass.
func TestIssuersDocument(t *testing.T) {
	t.Parallel()
	document := string(must(os.ReadFile("../docs/issuers.md"))(t))
	blocks := yamlBlocks(t, document)
	for _, block := range blocks {
		file := filepath.Join(t.TempDir(), "issuers.yaml")
		must(0, os.WriteFile(file, []byte(block), 0o600))(t)
		report := must(app.Check(t.Context(), app.CheckOptions{File: file}))(t)
		if len(report.Mistakes)+len(report.Warnings) > 0 || report.Tests < report.Entries || report.Tests == 0 {
			t.Errorf("mistakes %v, warnings %v, %d tests for %d entries in\n%s", report.Mistakes, report.Warnings, report.Tests, report.Entries, block)
		}
	}
	for _, provider := range []string{
		"Google Workspace", "Entra ID", "Okta", "Keycloak", "Dex", "GitHub\n", "GitHub Enterprise Server", "GitLab\n", "GitLab of your own",
		"Buildkite", "CircleCI", "Jenkins", "EKS, GKE and AKS", "K3s", "The cluster that mayfly runs in", "SPIFFE", "AWS",
	} {
		if !strings.Contains(document, "# "+provider) && !strings.Contains(document, "# Microsoft "+provider) {
			t.Errorf("%q has no section", provider)
		}
	}
	if len(blocks) < 18 {
		t.Errorf("the document has %d blocks only", len(blocks))
	}
}

// Every block of docs/signers.md that names a signer is read as part of a CA set. There is one for
// each kind that a binary can be built with.
func TestSignersDocument(t *testing.T) {
	t.Parallel()
	const entry = "generation: 1\nauthorities:\n  - id: 2026-a\n    chain: chain.pem\n    publish_at: 2026-11-01T00:00:00Z\n"
	kinds := map[string]bool{}
	for _, block := range yamlBlocks(t, string(must(os.ReadFile("../docs/signers.md"))(t))) {
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
