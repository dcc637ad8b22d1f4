// SPDX-License-Identifier: Apache-2.0

package clients

import (
	"crypto/sha256"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// TestRelease signs the checksums of a release as .goreleaser.yaml states, as the release workflow at a tag, and
// verifies them with the very lines of docs/releases.md. mayfly dev is in the place of GitHub and of sigstore's
// public instance, so that only the issuer's URL differs.
func TestRelease(t *testing.T) {
	w := &world{tools: toolset{mayfly: findMayfly(t), cosign3: goTool(t, "cosign3", "github.com/sigstore/cosign/v3", "cosign", "cosign")}}
	d := startDev(t, w)
	verify := strings.ReplaceAll(verification(t), "https://token.actions.githubusercontent.com", d.url+"/dev/issuers/github")
	sign := signCommand(t)

	release := func(t *testing.T, ref string) *sandbox {
		s := d.initialized(t, w)
		s.setenv("PATH", filepath.Dir(w.tools.cosign3)+":"+os.Getenv("PATH"))
		archive := []byte("an archive")
		s.write(t, "mayfly_1.0.0_linux_amd64.tar.gz", archive)
		s.write(t, "checksums.txt", fmt.Appendf(nil, "%x  mayfly_1.0.0_linux_amd64.tar.gz\n%x  mayfly_1.0.0_darwin_arm64.tar.gz\n", sha256.Sum256(archive), sha256.Sum256(nil)))
		token := s.mustRun(t, w.tools.mayfly, "token", "--url", d.url, "--as", "github", "--repo", "mayfly-ca/mayfly", "--ref", ref, "--workflow", "release.yaml")
		s.setenv("SIGSTORE_ID_TOKEN", trim(token))
		s.mustRun(t, "sh", "-euc", sign)
		return s
	}
	for _, c := range []struct {
		name, ref, why string
		damage         func(*testing.T, *sandbox)
	}{
		{"of the workflow at the tag", "refs/tags/v1.0.0", "", nil},
		{"of the workflow on a branch", "refs/heads/v1.0.0", "no matching CertificateIdentity found", nil},
		{"with other checksums", "refs/tags/v1.0.0", "invalid signature", func(t *testing.T, s *sandbox) { s.write(t, "checksums.txt", []byte("other")) }},
		{"with another archive", "refs/tags/v1.0.0", "did NOT match", func(t *testing.T, s *sandbox) { s.write(t, "mayfly_1.0.0_linux_amd64.tar.gz", nil) }},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			s := release(t, c.ref)
			if c.why == "" {
				s.mustRun(t, "sh", "-euc", verify)
				return
			}
			if c.damage != nil {
				c.damage(t, s)
			}
			s.mustFail(t, c.why, "sh", "-euc", verify)
		})
	}
}

// verification returns the first block of commands in the section "Verify a release".
func verification(t *testing.T) string {
	t.Helper()
	text, err := os.ReadFile("../../docs/releases.md")
	if err != nil {
		t.Fatal(err)
	}
	block := regexp.MustCompile("(?s)\n## Verify a release\n.*?\n```sh\n(.*?)```").FindSubmatch(text)
	if block == nil {
		t.Fatal("docs/releases.md has no commands that verify a release")
	}
	return string(block[1])
}

// signCommand returns the command with which goreleaser signs the checksums.
func signCommand(t *testing.T) string {
	t.Helper()
	text, err := os.ReadFile("../../.goreleaser.yaml")
	if err != nil {
		t.Fatal(err)
	}
	args := regexp.MustCompile(`(?s)\n  - artifacts: checksum\n    cmd: (cosign)\n    signature: "(.*?)"\n    args: \[(.*?)\]\n`).FindSubmatch(text)
	if args == nil {
		t.Fatal(".goreleaser.yaml does not sign the checksums with cosign")
	}
	line := strings.NewReplacer(",", "", `"`, "").Replace(string(args[1]) + " " + string(args[3]))
	line = strings.ReplaceAll(line, "${signature}", string(args[2]))
	return strings.ReplaceAll(line, "${artifact}", "checksums.txt")
}
