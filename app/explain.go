// SPDX-License-Identifier: Apache-2.0

package app

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/mayfly-ca/mayfly/ca/set"
	"github.com/mayfly-ca/mayfly/certs"
	"github.com/mayfly-ca/mayfly/config"
	"github.com/mayfly-ca/mayfly/identity"
	"github.com/mayfly-ca/mayfly/identity/policy"
	"github.com/mayfly-ca/mayfly/internal/refusal"
	"github.com/mayfly-ca/mayfly/oidc"
)

// ExplainOptions states which token to explain, and by which settings. Exactly one of Token and
// Claims is set.
type ExplainOptions struct {
	// File, Compat and Environ are as in CheckOptions.
	File    string
	Compat  bool
	Environ []string
	// Token is a raw ID token. Explain fetches the keys of its issuer.
	Token string
	// Claims is a JSON object with claims. Neither times nor a signature are checked.
	Claims []byte
}

// Explanation is the result that serve would have for a token. It never contains the token itself.
type Explanation struct {
	// Steps are the checks, in this order. The ones after the first failure show their result without
	// that failure, as far as the entry, the audience and the name are known.
	Steps []ExplainedStep `json:"steps"`
	// Unproven states that only claims were checked, without times and signature.
	Unproven bool `json:"unproven,omitempty"`
	// Assumed are claims that Claims lacks, with the values that tests assume too: `iss` if there is
	// one entry, and `aud` of the entry.
	Assumed map[string]string `json:"assumed,omitempty"`
	// Rules are the rules of the entry's policy, with the values of their parts, if none allows.
	Rules []policy.Explained `json:"rules,omitempty"`
	// Certificate is the content of a certificate; nil where it is unknown.
	Certificate *ExplainedCertificate `json:"certificate,omitempty"`
	// Reason and Message are the refusal; "" where a caller that proves possession of a key would
	// receive a certificate.
	Reason  string `json:"reason,omitempty"`
	Message string `json:"message,omitempty"`
}

// ExplainedStep is one check. Cause is the text that the client does not receive.
type ExplainedStep struct {
	Name  string `json:"name"`
	OK    bool   `json:"ok"`
	Text  string `json:"text"`
	Cause string `json:"cause,omitempty"`
}

// ExplainedCertificate is the part of a certificate that the token decides. Challenge is the name of the
// claim with the value that the caller must sign.
type ExplainedCertificate struct {
	SAN        string              `json:"san"`
	Extensions []ExplainedProperty `json:"extensions"`
	Challenge  string              `json:"challenge"`
}

// ExplainedProperty is an extension by its name.
type ExplainedProperty struct {
	Name  string `json:"name"`
	Value string `json:"value"`
}

// Explain checks a token with the functions that serve uses, up to the proof of possession, and
// issues nothing. Its error states why it could not check.
func Explain(ctx context.Context, options ExplainOptions) (*Explanation, error) {
	report := &CheckReport{}
	cfg, t, err := report.load(ctx, CheckOptions{File: options.File, Compat: options.Compat, NoFiles: true, Environ: options.Environ})
	if err == nil {
		err = errors.Join(report.Mistakes...)
	}
	if err != nil {
		return nil, err
	}
	x := &Explanation{Unproven: options.Token == ""}
	token, err := x.verify(ctx, t, options)
	if err != nil {
		return nil, err
	}
	if token != nil {
		x.identify(cfg, t.rules, token)
	}
	return x, nil
}

// verify returns the token for the remaining steps; nil where no further step is possible.
func (x *Explanation) verify(ctx context.Context, t *trust, options ExplainOptions) (*oidc.Token, error) {
	v := t.verifier
	observe := func(s oidc.Step) { x.step(s.Name, s.Found, s.Err) }
	var claims oidc.Claims
	var err error
	if options.Token == "" {
		if claims, err = oidc.ParseClaims(options.Claims); err != nil {
			return nil, fmt.Errorf("reading the claims, a JSON object: %w", err)
		}
		x.assume(t, claims)
		if _, ok := claims["iss"]; !ok {
			return nil, errors.New("reading the claims: they have no iss, and the file has not exactly one entry without a pattern; add the issuer URL of an entry")
		}
	} else {
		token, err := v.Trace(ctx, options.Token, observe)
		if err == nil {
			return token, nil
		}
		if claims, err = oidc.UnverifiedClaims(options.Token); err != nil {
			return nil, nil
		}
		observe = nil
	}
	token, err := v.Judge(claims, observe)
	if err != nil {
		return nil, nil // the error is in the steps
	}
	return token, nil
}

// assume adds the claims that the author of a test may omit too, if they are certain.
func (x *Explanation) assume(t *trust, claims oidc.Claims) {
	set := func(name, value string) {
		claims[name] = value
		x.Assumed[name] = value
	}
	x.Assumed = make(map[string]string)
	entries := t.issuers.Entries
	if _, ok := claims["iss"]; !ok && len(entries) == 1 && entries[0].Static {
		set("iss", entries[0].Key)
	}
	issuerURL, _ := claims["iss"].(string)
	entry, err := t.verifier.EntryOf(issuerURL)
	if _, ok := claims["aud"]; !ok && err == nil {
		set("aud", entry.Audiences[0])
	}
}

// identify explains step 2 of (*ca.CA).Issue, by the parts of (*identity.Rules).Identify, and the name
// constraints of the chain that signs now. It adds no step where they permit the name, or where this
// machine has no chain to read.
func (x *Explanation) identify(cfg *config.Server, rules *identity.Rules, token *oidc.Token) {
	id, err := rules.Name(token)
	if err != nil {
		x.step("identity", "", err)
		return
	}
	kind := map[certs.SANKind]string{certs.SANEmail: "an email address", certs.SANURI: "a URI", certs.SANUserName: "a user name"}[id.SAN.Kind]
	x.step("identity", fmt.Sprintf("%s, as %s", id.SAN.Value, kind), nil)
	x.Certificate = &ExplainedCertificate{SAN: id.SAN.Value, Challenge: id.ChallengeClaim}
	for extension, value := range id.Extensions.All() {
		x.Certificate.Extensions = append(x.Certificate.Extensions, ExplainedProperty{extension.Name, value})
	}
	d := rules.Decide(token, id)
	x.step("policy", policyText(d), d.Refusal())
	if d.Denied {
		x.Rules = rules.Explain(token, id)
	}
	if cfg.CA.File == nil && cfg.CA.Set == "" {
		return
	}
	now := time.Now()
	loaded, err := set.Read(cfg, now)
	if err != nil || len(loaded.Set.TrustBundle(now)) == 0 {
		return
	}
	if err := loaded.Set.TrustBundle(now)[0].Permits(id.SAN); err != nil {
		x.step("name constraints", "", err)
	}
}

// step records a check; the first that failed decides the answer.
func (x *Explanation) step(name, found string, err error) {
	s := ExplainedStep{Name: name, OK: err == nil, Text: found}
	if err != nil {
		refused := refusal.From(err)
		s.Text = fmt.Sprintf("%s: %s", refused.Reason, refused.Message)
		switch refused.Reason {
		// The causes of other refusals may quote the token.
		case refusal.IssuerUnreachable, refusal.PolicyDenied, refusal.InternalError:
			if refused.Cause != nil {
				s.Cause = strings.ReplaceAll(refused.Cause.Error(), "\n", "; ")
			}
		}
		if x.Reason == "" {
			x.Reason, x.Message = string(refused.Reason), refused.Message
		}
	}
	x.Steps = append(x.Steps, s)
}

func policyText(d policy.Decision) string {
	switch {
	case len(d.Rules) == 0:
		return "there are no rules, so that every caller of the issuer is allowed"
	case !d.Denied:
		return fmt.Sprintf("the rule %q allows", d.Rule)
	case d.Err != nil:
		return fmt.Sprintf("mode audit: it would be denied, as no rule allows it and not all could be evaluated: %s", strings.ReplaceAll(d.Err.Error(), "\n", "; "))
	default:
		return fmt.Sprintf("mode audit: it would be denied, as no rule allows it: %q", d.Rules)
	}
}
