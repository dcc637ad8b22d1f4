// SPDX-License-Identifier: Apache-2.0

// Package ca is the story of mayfly: an ID token and a proof of possession go in, and a
// certificate comes out that names the caller and was logged before it existed. Issue
// tells it from beginning to end.
//
// It may be imported by server, internal/app and tests. It knows nothing of HTTP, gRPC or
// configuration files.
package ca

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"sync/atomic"
	"time"

	"github.com/mayfly-ca/mayfly/certs"
	"github.com/mayfly-ca/mayfly/certs/correspond"
	"github.com/mayfly-ca/mayfly/ctlog"
	"github.com/mayfly-ca/mayfly/identity"
	"github.com/mayfly-ca/mayfly/oidc"
	"github.com/mayfly-ca/mayfly/proof"
)

// Config is what a CA is made of. Every field but Logs is demanded.
type Config struct {
	// Verifier turns a raw ID token into a verified Token.
	Verifier *oidc.Verifier
	// Rules turn a Token into an Identity. They know the same issuer entries as Verifier.
	Rules *identity.Rules
	// KeyPolicy says which keys may be certified.
	KeyPolicy *proof.KeyPolicy
	// Authorities is the CA set in force, of which the clock picks the one that signs.
	Authorities *Authorities
	// Profile is what a certificate looks like.
	Profile *Profile
	// Logs are the Certificate Transparency logs. Nil disables Certificate Transparency:
	// nobody can then find out who got a certificate in their name.
	Logs *ctlog.Logs
	// Generation is the number of the configuration that Verifier and Rules were made of, for
	// the record.
	Generation uint64
	// Now is the clock.
	Now func() time.Time
	// Logger gets one record for each certificate.
	Logger *slog.Logger
}

// CA issues certificates. It is safe for concurrent use, and immutable but for its
// Authorities, of which a request takes a snapshot once, so that neither a reload, which
// replaces a CA by another, nor a rotation can come between the two signatures of one
// certificate.
type CA struct {
	verifier    *oidc.Verifier
	rules       *identity.Rules
	keyPolicy   *proof.KeyPolicy
	authorities *Authorities
	profile     *Profile
	logs        *ctlog.Logs
	generation  uint64
	now         func() time.Time
	logger      *slog.Logger
}

// New returns a CA of the parts in config.
func New(config Config) (*CA, error) {
	if config.Verifier == nil || config.Rules == nil || config.KeyPolicy == nil || config.Authorities == nil ||
		config.Profile == nil || config.Now == nil || config.Logger == nil {
		return nil, errors.New("a CA needs a verifier, rules, a key policy, authorities, a profile, a clock and a logger")
	}
	return &CA{
		verifier:    config.Verifier,
		rules:       config.Rules,
		keyPolicy:   config.KeyPolicy,
		authorities: config.Authorities,
		profile:     config.Profile,
		logs:        config.Logs,
		generation:  config.Generation,
		now:         config.Now,
		logger:      config.Logger,
	}, nil
}

// TrustBundle returns the chains that verifiers of this CA's certificates must know, the
// active one first.
func (ca *CA) TrustBundle() []*Chain { return ca.authorities.Set().TrustBundle(ca.now()) }

// Issue issues one certificate. Every error is a *refusal.Error, or is hidden from the
// client as INTERNAL. Where it returns an error, no certificate exists; a precertificate
// may, and be in a log.
func (ca *CA) Issue(ctx context.Context, req Request) (*Issued, error) {
	// 1. Whose token is it? Nothing is done for anybody before this is known.
	token, err := ca.verifier.Verify(ctx, req.IDToken, req.Client)
	if err != nil {
		return nil, err
	}
	req.verified()

	// 2. What is the caller called, and may it have a certificate?
	id, err := ca.rules.Identify(token)
	if err != nil {
		return nil, err
	}

	// 3. Does the caller hold the key, and is the key good enough?
	key, err := req.Proof.Verify(ca.keyPolicy, proof.Challenge{Claim: id.ChallengeClaim, Value: id.Challenge})
	if err != nil {
		return nil, err
	}

	// 4. One reading of the clock, one authority whose chain permits the name, one TBS for both
	// signatures.
	draft, err := ca.draft(id, key)
	if err != nil {
		return nil, err
	}
	issued := &Issued{Chain: draft.authority.chain, SerialNumber: draft.template.SerialNumber, SAN: id.SAN}

	if ca.logs == nil {
		// 5–7. Certificate Transparency is disabled, explicitly: one signature, no SCT.
		if issued.Certificate, err = draft.finish(ctx, nil, nil); err != nil {
			return nil, err
		}
	} else {
		// 5. Sign the precertificate. It binds us to issue (RFC 6962, section 3.1), so all
		// that can be refused has been refused by now.
		pre, err := draft.precertificate(ctx, ca.logs.Trusting())
		if err != nil {
			return nil, err
		}

		// 6. Log it. The SCT is verified over the TBS that we built, or there is none.
		sct, err := ca.logs.Add(ctx, pre.submission())
		if err != nil {
			return nil, err
		}

		// 7. The certificate: the same TBS with the SCT in the poison's place. It is made
		// inside the precertificate's own method, so that a second certificate for one
		// precertificate cannot be expressed.
		if issued.Certificate, err = pre.finalize(ctx, sct); err != nil {
			return nil, err
		}
		issued.SCTEmbedded = true
	}

	// 8. Say so.
	ca.record(ctx, req.RequestID, token, id, draft)
	return issued, nil
}

// draft returns the draft that both signatures of one certificate are made over.
func (ca *CA) draft(id *identity.Identity, key *proof.PublicKey) (*draft, error) {
	serial, err := certs.NewSerial(rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("creating a serial number: %w", err)
	}
	now := ca.now()
	authority, err := ca.authorities.Set().Active(now)
	if err != nil {
		return nil, err
	}
	if err := authority.chain.Permits(id.SAN); err != nil {
		return nil, err
	}
	return ca.profile.draft(authority, now, id, key, serial)
}

// record writes the one record of a certificate.
func (ca *CA) record(ctx context.Context, requestID string, token *oidc.Token, id *identity.Identity, draft *draft) {
	ca.logger.LogAttrs(ctx, slog.LevelInfo, "certificate issued",
		slog.String("request_id", requestID),
		slog.String("serial", fmt.Sprintf("%x", draft.template.SerialNumber)),
		slog.String("issuer_url", id.IssuerURL),
		slog.String("subject", id.Subject),
		slog.String("san", id.SAN.Value),
		slog.String("authority", draft.authority.id),
		slog.Uint64("config_generation", ca.generation),
		slog.String("profile", token.Profile),
		slog.Any("policy", id.Policy),
		slog.Time("not_after", draft.template.NotAfter))
}

// precertificate is a signed precertificate, which can become one certificate, once.
type precertificate struct {
	draft *draft
	der   []byte
	spent atomic.Bool
}

// precertificate checks the draft against the profile and signs it with the poison. Its
// signature is verified here if a log would take it as it is.
func (d *draft) precertificate(ctx context.Context, trusting bool) (*precertificate, error) {
	tbs := d.tbs.Precertificate()
	if err := d.check(tbs, certs.OIDPoison); err != nil {
		return nil, err
	}
	sign := d.authority.signForLog
	if trusting {
		sign = d.authority.sign
	}
	signature, err := sign(ctx, tbs)
	if err != nil {
		return nil, err
	}
	return &precertificate{draft: d, der: certs.Assemble(tbs, d.authority.algorithm, signature)}, nil
}

// submission is what a log gets: the precertificate and the whole chain, root included.
func (p *precertificate) submission() ctlog.Submission {
	return ctlog.Submission{
		Chain:         append([][]byte{p.der}, p.draft.authority.chain.DER...),
		TBS:           p.draft.tbs.Logged(),
		IssuerKeyHash: p.draft.authority.issuerKeyHash,
	}
}

// finalize returns the certificate, DER, that embeds sct and corresponds to p. The second
// call on one precertificate is an error, whatever came of the first.
func (p *precertificate) finalize(ctx context.Context, sct ctlog.SCT) ([]byte, error) {
	if p.spent.Swap(true) {
		return nil, errors.New("refusing to finalize a precertificate twice")
	}
	list, err := ctlog.MarshalSCTList(sct)
	if err != nil {
		return nil, fmt.Errorf("encoding the SCT list: %w", err)
	}
	return p.draft.finish(ctx, list, p.der)
}

// finish signs the certificate, with the SCT list given or, where sctList is nil, with
// none. What is about to be signed must be the profile's, and correspond to the
// precertificate where there is one; what was signed must verify.
func (d *draft) finish(ctx context.Context, sctList, precertificate []byte) ([]byte, error) {
	tbs := d.tbs.Certificate(sctList)
	last := certs.OIDSCTList
	if sctList == nil {
		last = nil
	}
	if err := d.check(tbs, last); err != nil {
		return nil, err
	}
	if precertificate != nil {
		if err := correspond.Check(precertificate, certs.Assemble(tbs, d.authority.algorithm, nil)); err != nil {
			return nil, fmt.Errorf("comparing precertificate and certificate: %w", err)
		}
	}
	signature, err := d.authority.sign(ctx, tbs)
	if err != nil {
		return nil, err
	}
	return certs.Assemble(tbs, d.authority.algorithm, signature), nil
}
