// SPDX-License-Identifier: Apache-2.0

package app_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/mayfly-ca/mayfly/internal/app"
)

// Every block of docs/issuers.md is an issuer file without a mistake or a warning, and the
// tests in it pass.
func TestIssuersDocument(t *testing.T) {
	t.Parallel()
	document, err := os.ReadFile("../../docs/issuers.md")
	if err != nil {
		t.Fatal(err)
	}
	shipped, err := os.ReadFile("../../config/issuers.yaml")
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
			if strings.Contains(block, "ci-provider") {
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
		"Buildkite", "CircleCI", "Jenkins", "EKS, GKE and AKS", "K3s", "The cluster that mayfly runs in", "SPIFFE",
	} {
		if !strings.Contains(string(document), "# "+provider) && !strings.Contains(string(document), "# Microsoft "+provider) {
			t.Errorf("%q has no section", provider)
		}
	}
	if blocks < 18 {
		t.Errorf("the document has %d blocks only", blocks)
	}
}
