// SPDX-License-Identifier: Apache-2.0

package archtest

import (
	"os/exec"
	"slices"
	"strings"
	"testing"
)

// The modules that each build tag of app/keyring adds. No binary without the tag has them.
var signerModules = map[string][]string{
	"pkcs11":     {"github.com/miekg/pkcs11"},
	"awskms":     {"github.com/aws/", "github.com/sigstore/sigstore/pkg/signature/kms/aws"},
	"gcpkms":     {"cloud.google.com/", "google.golang.org/api/", "github.com/sigstore/sigstore/pkg/signature/kms/gcp"},
	"azurekms":   {"github.com/Azure/", "github.com/AzureAD/", "github.com/sigstore/sigstore/pkg/signature/kms/azure"},
	"hashivault": {"github.com/hashicorp/vault", "github.com/sigstore/sigstore/pkg/signature/kms/hashivault"},
}

// dependencies are the packages that go into the binary, with "cgo" behind the packages of this
// module and of others that need it.
func dependencies(t *testing.T, tags string) []string {
	t.Helper()
	command := exec.CommandContext(t.Context(), "go", "list", "-deps", "-tags", tags, "-f", "{{.ImportPath}}{{if and .CgoFiles (not .Standard)}} cgo{{end}}", "./cmd/mayfly")
	command.Dir = "../.."
	out, err := command.Output()
	if err != nil {
		t.Fatalf("listing what the binary is made of (-tags %q): %v", tags, err)
	}
	return strings.Split(strings.TrimSpace(string(out)), "\n")
}

func from(packages, modules []string) (found []string) {
	for _, p := range packages {
		if slices.ContainsFunc(modules, func(module string) bool { return strings.HasPrefix(p, module) }) {
			found = append(found, p)
		}
	}
	return found
}

// The default binary has no cgo and no signer of a build tag; each tag adds its own modules and no
// others.
func TestBinaryHoldsOnlyTheSignersAskedFor(t *testing.T) {
	t.Parallel()
	for _, tag := range []string{"", "pkcs11", "awskms", "gcpkms", "azurekms", "hashivault"} {
		packages := dependencies(t, tag)
		if len(packages) < 100 {
			t.Fatalf("the binary is made of %d packages only: the test looks at the wrong one", len(packages))
		}
		for of, modules := range signerModules {
			if found := from(packages, modules); (len(found) > 0) != (of == tag) {
				t.Errorf("with -tags %q the binary has %d packages of %s: %.5q", tag, len(found), of, found)
			}
		}
		cgo := slices.DeleteFunc(slices.Clone(packages), func(p string) bool { return !strings.HasSuffix(p, " cgo") })
		if want := tag == "pkcs11"; (len(cgo) > 0) != want {
			t.Errorf("with -tags %q these need cgo: %q", tag, cgo)
		}
	}
}

// The default binary has no code of tests: neither package testing nor a package of folder test.
func TestBinaryHoldsNoTestCode(t *testing.T) {
	t.Parallel()
	if found := from(dependencies(t, ""), []string{"testing", module + "test/", module + "mayflytest"}); len(found) > 0 {
		t.Errorf("the binary has the test packages %q", found)
	}
}
