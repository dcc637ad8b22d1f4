// SPDX-License-Identifier: Apache-2.0

package dev

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	_ "embed"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"text/template"
	"time"

	"go.yaml.in/yaml/v3"

	"github.com/mayfly-ca/mayfly/internal/suggest"
	"github.com/mayfly-ca/mayfly/oidc/provider"
)

//go:embed identities.yaml
var identitiesYAML []byte

// Kind is a kind of identity: whose tokens a world gives, and the issuer of these tokens.
// identities.yaml describes the fields. A value of a parameter must match its Pattern completely.
type Kind struct {
	Name, Path, About, Entry, Claims string
	Parameters                       []struct{ Name, Usage, Default, Pattern string }
}

// Kinds are the kinds of identity, in the order of identities.yaml.
type Kinds []Kind

// NewKinds returns all kinds.
func NewKinds() (kinds Kinds) {
	if err := yaml.Unmarshal(identitiesYAML, &kinds); err != nil {
		panic(err) // a fault of this program, which every test finds
	}
	return kinds
}

// Find returns the kind of a name. Its error suggests another name.
func (k Kinds) Find(name string) (Kind, error) {
	names := make([]string, len(k))
	for i := range k {
		if names[i] = k[i].Name; names[i] == name {
			return k[i], nil
		}
	}
	return Kind{}, fmt.Errorf("there is no kind of identity %q%s", name, suggest.DidYouMeanOr(name, names, "the kinds are"))
}

// Help lists the kinds and their parameters, with their defaults.
func (k Kinds) Help() string {
	var b strings.Builder
	for _, kind := range k {
		fmt.Fprintf(&b, "  %s: %s\n", kind.Name, kind.About)
		for _, p := range kind.Parameters {
			value := ""
			if p.Default != "" && !strings.Contains(p.Default, "{{") {
				value = " (" + p.Default + ")"
			}
			fmt.Fprintf(&b, "    --%-16s %s%s\n", p.Name, p.Usage, value)
		}
	}
	return b.String()
}

// values returns what the templates of the kind read, in a world at worldURL. Given values are escaped for
// quotes of YAML.
func (k *Kind) values(given map[string]string, worldURL string) (map[string]any, error) {
	values := world(worldURL)
	names := make([]string, len(k.Parameters))
	for i, p := range k.Parameters {
		value, err := render(p.Default, values)
		if err != nil {
			return nil, err
		}
		if text, ok := given[p.Name]; ok {
			if p.Pattern != "" && !regexp.MustCompile("^(?:"+p.Pattern+")$").MatchString(text) {
				return nil, fmt.Errorf("the parameter %s is %q; expected is %s, such as %s", p.Name, text, p.Usage, value)
			}
			quoted := strconv.QuoteToASCII(text)
			value = quoted[1 : len(quoted)-1]
		}
		names[i], values[strings.ReplaceAll(p.Name, "-", "_")] = p.Name, value
	}
	for name := range given {
		if !slices.Contains(names, name) {
			list := suggest.DidYouMeanOr(name, names, "its parameters are")
			return nil, fmt.Errorf("the kind %s has no parameter %q%s", k.Name, name, list)
		}
	}
	return values, nil
}

// world returns what each template reads. The host of an IPv6 address has brackets.
func world(url string) map[string]any {
	host := strings.TrimPrefix(url, "http://")
	return map[string]any{"url": url, "host": host[:max(strings.LastIndex(host, ":"), 0)]}
}

// claims returns the claims of a token, in a world at worldURL.
func (k *Kind) claims(parameters map[string]string, worldURL string) (map[string]any, error) {
	values, err := k.values(parameters, worldURL)
	if err != nil {
		return nil, err
	}
	text, err := render(k.Claims, values)
	if err != nil {
		return nil, err
	}
	var claims map[string]any
	if err := yaml.Unmarshal([]byte(text), &claims); err != nil {
		return nil, err
	}
	for name, value := range claims {
		if value == nil {
			claims[name] = json.RawMessage("null") // nil would omit the claim
		}
	}
	return claims, nil
}

// render executes a template as identities.yaml has them.
func render(text string, values map[string]any) (string, error) {
	hash := func(length int, texts ...string) string {
		sum := sha256.Sum256([]byte(strings.Join(texts, "\x00")))
		return hex.EncodeToString(sum[:])[:length]
	}
	parsed, err := template.New("").Option("missingkey=error").Funcs(template.FuncMap{
		"dir": path.Dir, "random": rand.Text, "hash": hash,
		"type": func(ref string) string {
			return map[bool]string{true: "tag", false: "branch"}[strings.HasPrefix(ref, "refs/tags/")]
		},
		"short":  func(ref string) string { return strings.SplitN(ref, "/", 3)[2] },
		"number": func(texts ...string) (uint64, error) { return strconv.ParseUint(hash(7, texts...), 16, 64) },
		"uuid": func(texts ...string) string {
			d := hash(30, texts...)
			return fmt.Sprintf("%s-%s-4%s-8%s-%s", d[:8], d[8:12], d[12:15], d[15:18], d[18:])
		},
		"now": func(offset int64) int64 { return time.Now().Unix() + offset },
	}).Parse(text)
	if err != nil {
		return "", err
	}
	var b strings.Builder
	err = parsed.Execute(&b, values)
	return b.String(), err
}

// makeProviders creates the issuer of each kind, and the handler of all services. They share a key, which the CA does not notice.
func (w *World) makeProviders(context.Context) error {
	if err := w.keys.Wait(); err != nil {
		return err
	}
	w.issuers = make(map[string]*provider.Provider)
	for _, kind := range w.kinds {
		// RS256: cosign treats a token of another algorithm in --identity-token as a file name.
		issuer, err := provider.New(provider.Config{
			IssuerURL: w.url + kind.Path, Algorithm: "RS256", Key: w.providerKey,
			SignIn: kind.Path == providerPath, Warning: w.Warning(),
		})
		if err != nil {
			return fmt.Errorf("making the OpenID provider of %s: %w", kind.Name, err)
		}
		w.issuers[kind.Name] = issuer
	}
	w.handler = w.newHandler()
	return nil
}

// IssuerURLAs is the URL of the issuer of a kind of identity.
func (w *World) IssuerURLAs(kind string) (string, error) {
	k, err := w.kinds.Find(kind)
	return w.url + k.Path, err
}

// TokenAs returns an ID token of a kind of identity, with parameters of the kind. claims replace
// those of the kind; nil removes one.
func (w *World) TokenAs(kind string, parameters map[string]string, claims map[string]any) (string, error) {
	k, err := w.kinds.Find(kind)
	if err != nil {
		return "", err
	}
	all, err := k.claims(parameters, w.url)
	if err != nil {
		return "", err
	}
	for name, value := range claims {
		raw, _ := value.(json.RawMessage)
		if _, isText := all[name].(string); isText && (string(raw) == "true" || string(raw) == "false") {
			value = string(raw) // as the provider sends this claim
		}
		all[name] = value
	}
	return w.issuers[kind].Mint(all)
}
