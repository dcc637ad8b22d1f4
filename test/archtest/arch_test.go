// SPDX-License-Identifier: Apache-2.0

// Package archtest tests the direction of imports: from cmd through server and ca to identity,
// oidc, proof, ctlog and certs, never back.
package archtest

import (
	"encoding/json"
	"errors"
	"io"
	"os/exec"
	"slices"
	"strings"
	"testing"
)

const module = "github.com/mayfly-ca/mayfly/"

// vocabulary may be imported by every package.
var vocabulary = []string{"internal/refusal", "internal/keypath", "internal/suggest", "internal/breaker", "internal/share", "internal/ratelimit", "internal/printable", "internal/files", "internal/pem", "internal/httputil", "internal/wildcard"}

// allowed states which packages of this module a folder, and what is below it, may import outside
// itself. The longest matching folder counts; "*" allows all.
var allowed = map[string][]string{
	"certs":              {},
	"certs/correspond":   {},
	"proof":              {},
	"config":             {"audit", "oidc", "identity", "ctlog/embedded", "certs", "server", "ca/ceremony", "ca/signer"},
	"proto":              {},
	"oidc":               {},
	"oidc/provider":      {},
	"ctlog":              {"certs"},
	"ctlog/reader":       {"ctlog", "certs"},
	"ctlog/embedded":     {"ctlog", "certs"},
	"identity":           {"oidc", "certs", "identity/policy"},
	"identity/policy":    {"oidc"},
	"audit":              {},
	"ca":                 {"audit", "oidc", "identity", "proof", "ctlog", "certs", "certs/correspond", "ca/signer"},
	"ca/set":             {"ca", "ca/signer", "config", "app/keyring"},
	"ca/signer":          {"certs"},
	"ca/ceremony":        {"certs", "ca/signer"},
	"server":             {"ca", "proof", "certs", "proto", "server/trace"},
	"server/trace":       {},
	"server/page":        {"server", "ca", "certs", "ctlog", "ctlog/reader"},
	"internal/refusal":   {},
	"internal/keypath":   {},
	"internal/printable": {},
	"internal/breaker":   {},
	"internal/share":     {},
	"internal/ratelimit": {},
	"internal/suggest":   {},
	"internal/files":     {},
	"internal/pem":       {},
	"internal/httputil":  {},
	"internal/wildcard":  {},
	"internal/watch":     {},
	"internal/clock":     {},
	"test/archtest":      {},
	"test/testlog":       {"ctlog", "certs"},
	"test/testca":        {"*"},
	"test/testworld":     {"*"},
	"test/testprocess":   {"*"},
	"internal/client":    {"proto", "certs"},
	"internal/trustroot": {},
	"dev":                {"*"},
	"mayflytest":         {"dev", "ctlog/embedded"},
	"app":                {"*"},
	"migrate":            {"app", "app/keyring", "config", "ca", "ctlog"},
	"cmd":                {"*"},
	"test/conformance":   {"*"},
	"test/siege":         {"*"},
	"test/chaos":         {"*"},
	"test/chart":         {"*"},
	"test/fleet":         {"*"},
	"test/load":          {"*"},
	"test/runbooks":      {"*"},
	"test/vault":         {},
	"test/collector":     {},
}

// onlyFor lists the only importers of a package.
var onlyFor = map[string][]string{
	"config":             {"app", "ca/set", "migrate", "cmd"},
	"oidc/provider":      {"test/testca", "test/testworld", "dev", "cmd"},
	"app":                {"ca/set", "test/testca", "test/testworld", "test/testprocess", "migrate", "dev", "cmd"},
	"migrate":            {"cmd"},
	"internal/trustroot": {"app", "dev", "cmd"},
	"server/page":        {"app"},
	"dev":                {"mayflytest", "cmd"},
	// They import package testing.
	"ca/signer/signertest": {},
	"test/testprocess":     {},
	"test/vault":           {},
	"test/collector":       {},
	"server/trace":         {"server", "config", "app"},
}

type listed struct {
	ImportPath string
	Imports    []string
}

func TestImportsRunOneWay(t *testing.T) {
	t.Parallel()
	command := exec.CommandContext(t.Context(), "go", "list", "-json=ImportPath,Imports", "./...")
	command.Dir = "../.."
	out, err := command.Output()
	if err != nil {
		var exit *exec.ExitError
		if errors.As(err, &exit) {
			t.Fatalf("listing packages: %v: %s", err, exit.Stderr)
		}
		t.Fatal(err)
	}
	decoder := json.NewDecoder(strings.NewReader(string(out)))
	packages := 0
	for {
		var p listed
		if err := decoder.Decode(&p); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
		packages++
		checkPackage(t, p)
	}
	if packages < 10 {
		t.Errorf("found %d packages only: the test looks at the wrong folder", packages)
	}
}

func checkPackage(t *testing.T, p listed) {
	t.Helper()
	folder := strings.TrimPrefix(p.ImportPath, module)
	room := roomOf(folder)
	if room == "" {
		t.Errorf("%s is in no room of the design's table: give it one here, or move it", folder)
		return
	}
	for _, path := range p.Imports {
		imported, ours := strings.CutPrefix(path, module)
		if !ours {
			continue
		}
		if below(imported, room) && roomOf(imported) == room || slices.Contains(vocabulary, imported) {
			continue
		}
		if !slices.Contains(allowed[room], "*") && !containsRoom(allowed[room], imported) {
			t.Errorf("%s imports %s, against the direction of the flow", folder, imported)
		}
		if only, ok := onlyFor[imported]; ok && !containsRoom(only, folder) {
			t.Errorf("%s imports %s, which is for %s only", folder, imported, strings.Join(only, ", "))
		}
	}
}

// roomOf returns the longest folder of the table that contains folder.
func roomOf(folder string) (room string) {
	for candidate := range allowed {
		if below(folder, candidate) && len(candidate) > len(room) {
			room = candidate
		}
	}
	return room
}

func below(folder, parent string) bool {
	return folder == parent || strings.HasPrefix(folder, parent+"/")
}

func containsRoom(rooms []string, folder string) bool {
	return slices.ContainsFunc(rooms, func(room string) bool { return below(folder, room) })
}

func TestOnlyTheEdgeKnowsHTTP(t *testing.T) {
	t.Parallel()
	for _, p := range []string{"ca", "identity", "proof", "certs", "certs/correspond"} {
		command := exec.CommandContext(t.Context(), "go", "list", "-f", `{{join .Imports "\n"}}`, module+p)
		command.Dir = "../.."
		out, err := command.Output()
		if err != nil {
			t.Fatalf("listing %s: %v", p, err)
		}
		for path := range strings.Lines(string(out)) {
			path = strings.TrimSpace(path)
			if path == "net/http" || path == "encoding/json" || strings.HasPrefix(path, "google.golang.org/grpc") {
				t.Errorf("%s imports %s: only server knows gRPC, HTTP and JSON", p, path)
			}
		}
	}
}
