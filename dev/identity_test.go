// SPDX-License-Identifier: Apache-2.0

package dev

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"net/http"
	"os"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"

	"github.com/mayfly-ca/mayfly/certs"
	"github.com/mayfly-ca/mayfly/internal/client"
	"github.com/mayfly-ca/mayfly/internal/pem"
)

var update = flag.Bool("update", false, "write testdata/identities.txt: compare it with the documents of the providers")

// certify requests a certificate with a token.
func certify(t *testing.T, w *World, token string) (*x509.Certificate, error) {
	t.Helper()
	key, errKey := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	ca, errClient := client.New(client.Config{URL: w.URL()})
	if err := errors.Join(errKey, errClient); err != nil {
		t.Fatal(err)
	}
	issued, err := ca.SigningCertificate(t.Context(), client.Request{IDToken: token, Signer: key})
	if err != nil {
		return nil, err
	}
	chain, err := pem.Certificates([]byte(strings.Join(issued.PEM, "\n")))
	if err != nil {
		t.Fatal(err)
	}
	return chain[0], nil
}

// Each section of the golden file begins with a query of /dev/token. The claims of the token follow,
// and what the certificate states.
func TestCertificatesOfEveryKind(t *testing.T) {
	t.Parallel()
	const file = "testdata/identities.txt"
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	w, _ := run(t, Config{})
	var got strings.Builder
	for line := range strings.Lines(string(want)) {
		query, isQuery := strings.CutPrefix(strings.TrimSpace(line), "## ")
		if !isQuery {
			continue
		}
		token := get(t, w.URL()+"/dev/token?"+query, http.StatusOK)
		leaf, err := certify(t, w, token)
		if err != nil {
			t.Errorf("%s: %v", query, err)
			continue
		}
		san, errSAN := certs.SANOf(leaf)
		extensions, errExtensions := certs.ParseExtensions(leaf.Extensions)
		payload, errPayload := base64.RawURLEncoding.DecodeString(strings.Split(token, ".")[1])
		var claims map[string]any
		if err := errors.Join(errSAN, errExtensions, errPayload, json.Unmarshal(payload, &claims)); err != nil {
			t.Fatal(err)
		}
		for _, name := range []string{"iat", "nbf", "exp", "jti"} {
			delete(claims, name)
		}
		var text bytes.Buffer
		encoder := json.NewEncoder(&text)
		encoder.SetEscapeHTML(false)
		encoder.SetIndent("", "  ")
		if err := encoder.Encode(claims); err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(&got, "## %s\n%s%s: %s\n", query, &text, san.Kind, san.Value)
		for extension, value := range extensions.All() {
			fmt.Fprintf(&got, ".%d %s: %s\n", extension.Arc, extension.Name, value)
		}
		got.WriteByte('\n')
	}
	result := strings.ReplaceAll(got.String(), strings.TrimPrefix(w.URL(), "http://"), "WORLD")
	for _, kind := range w.kinds {
		if !strings.Contains(result, "## as="+kind.Name+"\n") {
			t.Errorf("%s has no section for the kind %s", file, kind.Name)
		}
	}
	if *update {
		if err := os.WriteFile(file, []byte(result), 0o644); err != nil {
			t.Fatal(err)
		}
	} else if diff := cmp.Diff(string(want), result); diff != "" {
		t.Error(diff)
	}
}

func TestTokensThatAreRefused(t *testing.T) {
	t.Parallel()
	w, _ := run(t, Config{})
	for query, want := range map[string]string{
		"as=githup":                             `there is no kind of identity "githup"; did you mean "github"?`,
		"as=":                                   `the kinds are email, github, gitlab, buildkite, circleci, codefresh, kubernetes, spiffe, uri, username`,
		"as=github&rep=acme/app":                `the kind github has no parameter "rep"; did you mean "repo"?`,
		"as=uri&issuer=x":                       `its parameters are subject`,
		"as=github&repo=app":                    `the parameter repo is "app"; expected is the repository, such as acme/app`,
		"as=github&ref=main":                    `such as refs/heads/main`,
		"as=buildkite&build=one":                `the parameter build is "one"; expected is the number of the build, such as 1`,
		"as=github&repo=a/b&repo=c/d":           `the parameter repo is given 2 times`,
		"as=github&claim=sha":                   `a claim is "sha"; it looks like name=value`,
		"as=github&claim=exp=soon":              `the claim exp is "soon"`,
		"as=circleci&ssh-rerun=perhaps":         `ssh-rerun is "perhaps"`,
		"as=github&job-workflow=acme/build.yml": `such as acme/app/.github/workflows/release.yml@refs/heads/main`,
	} {
		if body := get(t, w.URL()+"/dev/token?"+query, http.StatusBadRequest); !strings.Contains(body, want) {
			t.Errorf("%s: %s, want %s", query, body, want)
		}
	}
	// Any claim can be replaced, and omitted.
	for query, want := range map[string]string{
		"as=github&claim=aud=x":                  "AUDIENCE_MISMATCH",
		"as=github&claim=job_workflow_ref=":      "CLAIM_MISSING",
		"as=spiffe&subject=spiffe://other/x":     "CLAIM_INVALID",
		"as=kubernetes&namespace=Not":            "CLAIM_INVALID",
		"as=github&claim=exp=1000000000":         "TOKEN_EXPIRED",
		"as=email&claim=email_verified=false":    "EMAIL_UNVERIFIED",
		"as=uri&claim=iss=https://other.example": "ISSUER_NOT_CONFIGURED",
	} {
		_, err := certify(t, w, get(t, w.URL()+"/dev/token?"+query, http.StatusOK))
		var refused *client.Error
		if !errors.As(err, &refused) || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %s", query, err, want)
		}
	}
}

// No parameter breaks out of its claim, as YAML or as a template.
func FuzzParameters(f *testing.F) {
	f.Add("acme/app", "refs/heads/main", "prod")
	f.Add(`a"/{{ .url }}`, "refs/heads/\n- x", `"}\`)
	kind, err := NewKinds().Find("github")
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, repo, ref, environment string) {
		if !utf8.ValidString(repo + ref + environment) {
			return
		}
		claims, err := kind.claims(map[string]string{"repo": repo, "ref": ref, "environment": environment}, "http://127.0.0.1:5555")
		if err != nil {
			if strings.Contains(err.Error(), "yaml") {
				t.Errorf("%q, %q, %q: %v", repo, ref, environment, err)
			}
			return
		}
		want := map[string]any{"repository": repo, "ref": ref, "environment": environment}
		if environment == "" {
			delete(want, "environment")
		}
		for _, name := range []string{"repository", "ref", "environment"} {
			if claims[name] != want[name] {
				t.Errorf("the claim %s is %q, want %q", name, claims[name], want[name])
			}
		}
	})
}

// TestDevDocument compares the list of kinds in docs/dev.md with the help; -update writes it again.
func TestDevDocument(t *testing.T) {
	t.Parallel()
	const path, start, end = "../docs/dev.md", "<!-- kinds -->\n", "<!-- /kinds -->\n"
	got, err := os.ReadFile(path)
	before, rest, found := strings.Cut(string(got), start)
	_, after, foundEnd := strings.Cut(rest, end)
	if err != nil || !found || !foundEnd {
		t.Fatalf("%s has no section %s: %v", path, start, err)
	}
	want := before + start + "```text\n" + NewKinds().Help() + "```\n" + end + after
	if *update {
		if err := os.WriteFile(path, []byte(want), 0o644); err != nil {
			t.Fatal(err)
		}
	} else if diff := cmp.Diff(want, string(got)); diff != "" {
		t.Errorf("docs/dev.md is not what `make generate` writes (-want +got):\n%s", diff)
	}
}

// A host name of a user may not hold a bare IPv6 address.
func TestHosts(t *testing.T) {
	t.Parallel()
	for url, want := range map[string]string{"http://127.0.0.1:5555": "127.0.0.1", "http://[::1]:5555": "[::1]", "http://mayfly.internal:80": "mayfly.internal"} {
		if got := world(url)["host"]; got != want {
			t.Errorf("%s has the host %q, want %s", url, got, want)
		}
	}
}

// A query is untrusted: it is refused, or is a token.
func FuzzTokenQuery(f *testing.F) {
	for _, query := range []string{"", "as=github", "as=github&repo=a/b&claim=sub=x", "as=spiffe&subject=%00", "email=a@example.com&exp=5"} {
		f.Add(query)
	}
	w := &World{url: "http://127.0.0.1:5555", kinds: NewKinds()}
	var err error
	if w.providerKey, err = rsa.GenerateKey(rand.Reader, 2048); err == nil {
		err = w.makeProviders(f.Context())
	}
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, text string) {
		if token, err := w.tokenFor(text); err == nil && strings.Count(token, ".") != 2 {
			t.Errorf("%q became %q", text, token)
		}
	})
}
