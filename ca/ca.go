// SPDX-License-Identifier: Apache-2.0

// Package ca issues certificates. It verifies an ID token and a proof of possession, and returns a
// certificate that names the caller. The precertificate is logged before the certificate exists.
// Issue has every step.
//
// Packages server, app and tests may import it. It does not depend on HTTP, gRPC or
// configuration files.
package ca

import (
	"cmp"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"sync/atomic"
	"time"

	"github.com/mayfly-ca/mayfly/audit"
	"github.com/mayfly-ca/mayfly/certs"
	"github.com/mayfly-ca/mayfly/certs/correspond"
	"github.com/mayfly-ca/mayfly/ctlog"
	"github.com/mayfly-ca/mayfly/identity"
	"github.com/mayfly-ca/mayfly/oidc"
	"github.com/mayfly-ca/mayfly/proof"
)

// Config is the configuration of a CA. Every field except Logs, SetGeneration and Audit is required.
type Config struct {
	// Verifier turns a raw ID token into a verified Token.
	Verifier *oidc.Verifier
	// Rules derive an Identity from a Token. They know the same issuer entries as Verifier.
	Rules *identity.Rules
	// KeyPolicy decides which keys may be certified.
	KeyPolicy *proof.KeyPolicy
	// Active returns the authority that signs at a time. Its refusal is CA_EXPIRING if there is none.
	Active func(now time.Time) (*Authority, error)
	// TrustBundle returns the chains that verifiers must know at a time, the active one first.
	TrustBundle func(now time.Time) []*Chain
	// Profile is the form of every certificate.
	Profile *Profile
	// Logs are the Certificate Transparency logs. Nil disables Certificate Transparency. Then the
	// owner of a name cannot detect certificates for it.
	Logs *ctlog.Logs
	// Generation is the number of the configuration of Verifier and Rules, for the record.
	Generation uint64
	// SetGeneration returns the generation of the CA set in use, for the audit log; nil for none.
	SetGeneration func() uint64
	// Audit receives an intent before the first signature and an outcome before Issue returns. Nil
	// means that there is no audit log.
	Audit *audit.Log
	// Now is the clock.
	Now func() time.Time
	// Logger gets one record for each certificate.
	Logger *slog.Logger
}

// Proof is a proof of possession of the private key to certify.
//
// Verify checks the key against policy before it does any work on the proof itself, and returns the
// key. Its refusals are *refusal.Error of kind Malformed. It is called once, after the token has
// been verified, so that an unknown caller causes no such work.
type Proof interface {
	Verify(policy *proof.KeyPolicy, challenge proof.Challenge) (*proof.PublicKey, error)
}

// Request is what a signing client requests: a certificate for the key of Proof, in the name that
// IDToken gives.
type Request struct {
	// IDToken is the raw compact JWS as the client sent it; "" if it sent none.
	IDToken string
	// Proof is never nil.
	Proof Proof
	// Client is the address of the client, not that of a trusted proxy before it; zero if it is not
	// known.
	Client netip.Addr
	// RequestID is in every record of this request.
	RequestID string
	// Admit, if set, is called once the caller is known, before its proof is verified and any key signs.
	// Its error refuses the request.
	Admit func(caller *Caller) error
	// Caller, if set, receives what is verified about the caller, step by step. It is for metrics and
	// records of refusals.
	Caller *Caller
	// Steps, if set, receives when each step began. It is for metrics and traces.
	Steps *Steps
}

// Caller is what has been verified about the caller of a request. The zero value is an unknown caller.
type Caller struct {
	// Token is nil until its signature and its claims have been verified.
	Token *oidc.Token
	// Identity is nil until the token's claims are known to have a name that a certificate can hold.
	// A policy may still refuse it.
	Identity *identity.Identity
	// TokenReused reports whether Token was in a request before.
	TokenReused bool
}

// AppendAttrs appends the caller's part of a record, with the same keys for a certificate and a
// refusal. Nothing in it is unverified: for an unknown caller it is empty.
func (c *Caller) AppendAttrs(attrs []slog.Attr) []slog.Attr {
	if c.Token == nil {
		return attrs
	}
	attrs = append(attrs, slog.String("issuer_url", c.Token.IssuerURL), slog.String("issuer_entry", c.Token.Entry),
		slog.String("profile", c.Token.Profile), slog.String("subject", c.Token.Subject))
	if c.TokenReused {
		attrs = append(attrs, slog.Bool("token_reused", true))
	}
	if c.Identity == nil {
		return attrs
	}
	return append(attrs, slog.String("san", c.Identity.SAN.Value), slog.Any("policy", &c.Identity.Policy))
}

// Issued is a certificate that a client may have.
type Issued struct {
	// Certificate is the leaf, DER.
	Certificate []byte
	// Chain is the authority that signed it.
	Chain *Chain
	// SCTEmbedded reports whether Certificate holds a signed certificate timestamp. It is false
	// exactly if Certificate Transparency is disabled.
	SCTEmbedded bool
	// SerialNumber is the certificate's: 20 bytes, big-endian.
	SerialNumber []byte
	// SAN is the identity in the certificate.
	SAN certs.SAN
}

// CA issues certificates. It is immutable, and safe for concurrent use. Each request asks once for
// the active authority, and a reload replaces a CA by another. So neither a reload nor a rotation
// can happen between the two signatures of one certificate.
type CA struct{ config Config }

// New returns a CA with the parts in config.
func New(config Config) (*CA, error) {
	if config.Verifier == nil || config.Rules == nil || config.KeyPolicy == nil || config.Active == nil || config.TrustBundle == nil ||
		config.Profile == nil || config.Now == nil || config.Logger == nil {
		return nil, errors.New("a CA needs a verifier, rules, a key policy, authorities, a profile, a clock and a logger")
	}
	return &CA{config}, nil
}

// TrustBundle returns the chains that verifiers of this CA's certificates must know, the active one
// first.
func (ca *CA) TrustBundle() []*Chain { return ca.config.TrustBundle(ca.config.Now()) }

// Issue issues one certificate. Every error is a *refusal.Error, or is hidden from the client as
// INTERNAL. If Issue returns an error, no certificate exists; a precertificate may exist, and be in
// a log.
func (ca *CA) Issue(ctx context.Context, req Request) (_ *Issued, err error) {
	// 1. Verify the token. No key signs and no log is contacted for a caller without one.
	req.Steps.begin(StepToken)
	caller := cmp.Or(req.Caller, &Caller{})
	token, err := ca.config.Verifier.Verify(ctx, req.IDToken, req.Client)
	if err != nil {
		return nil, err
	}
	caller.Token = token
	trail := ca.trail(req.IDToken, req.RequestID, caller)
	defer func() { trail.end(ctx, err) }() // records a refusal

	// 2. Derive the caller's identity, and check that it may have a certificate.
	req.Steps.begin(StepIdentity)
	id, err := ca.config.Rules.Identify(token)
	caller.Identity = id
	if err == nil && req.Admit != nil {
		req.Steps.begin(StepAdmission)
		err = req.Admit(caller) // whether it is the caller's turn
	}
	if err != nil {
		return nil, err
	}

	// 3. Verify that the caller holds the key, and that the key is good enough.
	req.Steps.begin(StepProof)
	key, err := req.Proof.Verify(ca.config.KeyPolicy, proof.Challenge{Claim: id.ChallengeClaim, Value: id.Challenge})
	if err != nil {
		return nil, err
	}

	// 4. Read the clock once, select one authority with a chain that permits the name, and assemble
	//    one TBS for both signatures.
	draft, err := ca.draft(id, key, req.Steps)
	if err != nil {
		return nil, err
	}

	// Record the intent, so that no signature exists without a durable record.
	if err := trail.intent(ctx, draft, key); err != nil {
		return nil, err
	}
	issued := &Issued{Chain: draft.authority.chain, SerialNumber: draft.template.SerialNumber, SAN: id.SAN, SCTEmbedded: ca.config.Logs != nil}

	// 5–7. Sign the precertificate, log it, and sign the certificate with the SCT.
	if issued.Certificate, err = draft.certificate(ctx, ca.config.Logs); err != nil {
		return nil, err
	}

	// 8. Record the result. The outcome is durable before the caller gets the certificate.
	if err := trail.outcome(ctx, issued); err != nil {
		return nil, err
	}
	ca.record(ctx, req.RequestID, caller, draft)
	return issued, nil
}

// certificate makes steps 5 to 7 of Issue. It returns the certificate, DER.
func (d *draft) certificate(ctx context.Context, logs *ctlog.Logs) ([]byte, error) {
	if logs == nil { // Certificate Transparency is disabled, explicitly: one signature, no SCT
		return d.finish(ctx, nil, nil)
	}

	// 5. Sign the precertificate. It is a commitment to issue (RFC 6962, section 3.1), so every
	//    check of the request comes before it.
	pre, err := d.precertificate(ctx, logs.TrustsSubmitter())
	if err != nil {
		return nil, err
	}

	// 6. Log it. ctlog returns an SCT only if it verifies over the TBS that this CA built.
	d.steps.begin(StepLog)
	if d.sct, err = logs.Add(ctx, pre.submission()); err != nil {
		return nil, cmp.Or(pre.confirm(ctx), err)
	}

	// 7. Create the certificate: the same TBS with the SCT in place of the poison. A method of the
	//    precertificate signs it, so that a second certificate for one precertificate is refused.
	return pre.finalize(ctx, d.sct)
}

// draft returns the draft that both signatures of one certificate cover, and notes it in steps.
func (ca *CA) draft(id *identity.Identity, key *proof.PublicKey, steps *Steps) (*draft, error) {
	steps.begin(StepDraft)
	now := ca.config.Now()
	authority, err := ca.config.Active(now)
	if err != nil {
		return nil, err
	}
	if err := authority.chain.Permits(id.SAN); err != nil {
		return nil, err
	}
	d, err := ca.config.Profile.draft(authority, now, id, key)
	if err == nil && steps != nil {
		d.steps, steps.draft = steps, d
	}
	return d, err
}

// record logs the one record of a certificate.
func (ca *CA) record(ctx context.Context, requestID string, caller *Caller, draft *draft) {
	if !ca.config.Logger.Enabled(ctx, slog.LevelInfo) {
		return
	}
	attrs := append(make([]slog.Attr, 0, 13), slog.String("request_id", requestID), slog.String("serial", hex.EncodeToString(draft.template.SerialNumber)))
	attrs = append(caller.AppendAttrs(attrs), slog.String("authority", draft.authority.id), slog.Uint64("config_generation", ca.config.Generation),
		slog.Time("not_after", draft.template.NotAfter))
	if ca.config.Logs != nil {
		attrs = append(attrs, slog.String("log_id", hex.EncodeToString(draft.sct.LogID[:])))
	}
	if index, ok := draft.sct.LeafIndex(); ok {
		attrs = append(attrs, slog.Uint64("leaf_index", index))
	}
	line := slog.NewRecord(time.Now(), slog.LevelInfo, "certificate issued", 0) // LogAttrs would look up the caller, which no handler writes
	line.AddAttrs(attrs...)
	_ = ca.config.Logger.Handler().Handle(ctx, line)
}

// precertificate is a signed precertificate, which can become one certificate, once.
type precertificate struct {
	draft     *draft
	tbs       []byte
	signature []byte
	der       []byte
	spent     atomic.Bool
}

// precertificate checks the draft against the profile and signs it with the poison. If trusting is
// set, a log would accept it unverified, so its signature is verified here.
func (d *draft) precertificate(ctx context.Context, trusting bool) (*precertificate, error) {
	d.steps.begin(StepPrecertificate)
	tbs := d.tbs.Precertificate()
	if err := d.check(tbs, true, nil); err != nil {
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
	return &precertificate{draft: d, tbs: tbs, signature: signature, der: certs.Assemble(tbs, d.authority.algorithm, signature)}, nil
}

// submission returns what a log gets: the precertificate and the whole chain, root included.
func (p *precertificate) submission() ctlog.Submission {
	return ctlog.Submission{
		Chain:         append([][]byte{p.der}, p.draft.authority.chain.DER...),
		TBS:           p.draft.tbs.Logged(),
		IssuerKeyHash: p.draft.authority.issuerKeyHash,
	}
}

// confirm returns the refusal of a signature that does not verify. A log refuses such a precertificate, which
// is a failure of the key and not of the log.
func (p *precertificate) confirm(ctx context.Context) error {
	authority := p.draft.authority
	return authority.refusal(ctx, authority.signer.Confirm(ctx, p.signature, p.tbs))
}

// finalize returns the certificate, DER, that embeds sct and corresponds to p. A second call on one
// precertificate is an error, whatever the first one returned.
func (p *precertificate) finalize(ctx context.Context, sct ctlog.SCT) ([]byte, error) {
	if p.spent.Swap(true) {
		return nil, errors.New("refusing to finalize a precertificate twice")
	}
	list, err := ctlog.MarshalSCTList(sct)
	if err != nil {
		return nil, fmt.Errorf("encoding the SCT list: %w", err)
	}
	return p.draft.finish(ctx, list, p.tbs)
}

// finish signs the certificate with sctList, or without an SCT list if it is nil. The TBS must have
// the profile, and correspond to the TBS of the precertificate, which is nil without a log. The
// signature must verify.
func (d *draft) finish(ctx context.Context, sctList, precertificate []byte) ([]byte, error) {
	d.steps.begin(StepCertificate)
	tbs := d.tbs.Certificate(sctList)
	if err := d.check(tbs, false, sctList); err != nil {
		return nil, err
	}
	if precertificate != nil {
		if err := correspond.Check(precertificate, tbs); err != nil {
			return nil, fmt.Errorf("comparing precertificate and certificate: %w", err)
		}
	}
	signature, err := d.authority.sign(ctx, tbs)
	if err != nil {
		return nil, err
	}
	return certs.Assemble(tbs, d.authority.algorithm, signature), nil
}
