// SPDX-License-Identifier: Apache-2.0

package app

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/mayfly-ca/mayfly/certs"
	"github.com/mayfly-ca/mayfly/config"
	"github.com/mayfly-ca/mayfly/identity"
	"github.com/mayfly-ca/mayfly/identity/policy"
	"github.com/mayfly-ca/mayfly/internal/refusal"
	"github.com/mayfly-ca/mayfly/oidc"
)

// ExplainOptions says which token is to be explained, and by which settings. Exactly one of
// Token and Claims is set.
type ExplainOptions struct {
	// File, Compat and Environ are as in CheckOptions.
	File    string
	Compat  bool
	Environ []string
	// Token is a raw ID token. Its issuer is asked for its keys.
	Token string
	// Claims is a JSON object with claims, of which neither times nor a signature are judged.
	Claims []byte
}

// Explanation is what would become of a token. It never holds the token itself.
type Explanation struct {
	// Steps are what was judged, in this order. Those after the first that failed are what
	// would have been found without it.
	Steps []ExplainedStep `json:"steps"`
	// Unproven tells that only claims were judged, without times and signature.
	Unproven bool `json:"unproven,omitempty"`
	// Certificate is what a certificate would say; nil where that cannot be told.
	Certificate *ExplainedCertificate `json:"certificate,omitempty"`
	// Reason and Message are the refusal; "" where a certificate would be issued to whoever
	// proves possession of a key.
	Reason  string `json:"reason,omitempty"`
	Message string `json:"message,omitempty"`

	name certs.SAN // of the certificate; zero where it is unknown
}

// ExplainedStep is one judgement.
type ExplainedStep struct {
	Name string `json:"name"`
	OK   bool   `json:"ok"`
	Text string `json:"text"`
	// Cause is what the client is not told.
	Cause string `json:"cause,omitempty"`
}

// ExplainedCertificate is what the token decides of a certificate.
type ExplainedCertificate struct {
	SAN        string              `json:"san"`
	Extensions []ExplainedProperty `json:"extensions"`
	// Challenge is the claim whose value the caller must sign.
	Challenge string `json:"challenge"`
}

// ExplainedProperty is an extension by its name.
type ExplainedProperty struct {
	Name  string `json:"name"`
	Value string `json:"value"`
}

// Explain judges a token by the functions that serve judges it by, up to the proof of
// possession, and issues nothing. Its error says why it could not.
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
	token, err := x.verify(ctx, t.verifier, options)
	if err != nil {
		return nil, err
	}
	if token != nil {
		x.identify(t.rules, token)
		x.permit(cfg, time.Now())
	}
	return x, nil
}

// verify returns the token that the rest is to be explained of; nil where nothing more can
// be told.
func (x *Explanation) verify(ctx context.Context, v *oidc.Verifier, options ExplainOptions) (*oidc.Token, error) {
	observe := func(s oidc.Step) { x.step(s.Name, s.Found, s.Err) }
	if options.Token == "" {
		claims, err := oidc.ParseClaims(options.Claims)
		if err != nil {
			return nil, fmt.Errorf("reading the claims: %w", err)
		}
		token, err := v.Judge(claims, observe)
		if err != nil {
			return nil, nil // it is in the steps
		}
		return token, nil
	}
	token, err := v.Trace(ctx, options.Token, observe)
	if err == nil {
		return token, nil
	}
	claims, err := oidc.UnverifiedClaims(options.Token)
	if err != nil {
		return nil, nil
	}
	if token, err = v.Judge(claims, nil); err != nil {
		return nil, nil
	}
	return token, nil
}

// identify explains steps 2 of (*ca.CA).Issue, by the parts of (*identity.Rules).Identify.
func (x *Explanation) identify(rules *identity.Rules, token *oidc.Token) {
	id, err := rules.Name(token)
	if err != nil {
		x.step("identity", "", err)
		return
	}
	x.step("identity", fmt.Sprintf("%s, as %s", id.SAN.Value, sanKind(id.SAN.Kind)), nil)
	x.name = id.SAN
	x.Certificate = &ExplainedCertificate{SAN: id.SAN.Value, Challenge: id.ChallengeClaim}
	for extension, value := range id.Extensions.All() {
		x.Certificate.Extensions = append(x.Certificate.Extensions, ExplainedProperty{extension.Name, value})
	}
	d := rules.Decide(token, id)
	x.step("policy", policyText(d), d.Refusal())
}

// permit explains the name constraints of the chain that signs at now. It is silent where they
// permit the name, and where this machine has no chain to read.
func (x *Explanation) permit(cfg *config.Server, now time.Time) {
	if x.Certificate == nil || cfg.CA.File == nil && cfg.CA.Set == "" {
		return
	}
	if windows, err := loadWindows(cfg, now); err == nil && len(windows) > 0 {
		if err := windows[0].Chain.Permits(x.name); err != nil {
			x.step("name constraints", "", err)
		}
	}
}

// step records a judgement; the first that failed is the answer.
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

func sanKind(kind certs.SANKind) string {
	switch kind {
	case certs.SANEmail:
		return "an email address"
	case certs.SANURI:
		return "a URI"
	case certs.SANUserName:
		return "a user name"
	default:
		return "a name of no known kind"
	}
}
