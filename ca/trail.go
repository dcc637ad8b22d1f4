// SPDX-License-Identifier: Apache-2.0

package ca

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"

	"github.com/mayfly-ca/mayfly/audit"
	"github.com/mayfly-ca/mayfly/ctlog"
	"github.com/mayfly-ca/mayfly/internal/refusal"
	"github.com/mayfly-ca/mayfly/proof"
)

// trail writes the audit records of one request whose token was verified. A nil trail writes none.
type trail struct {
	ca     *CA
	token  string // raw
	caller *Caller
	draft  *draft       // nil before intent
	record audit.Record // what all records of the request have
	entry  *audit.Entry // of the intent, if it is durable or may become so
	ended  bool         // by outcome
}

// trail returns the audit trail of a request.
func (ca *CA) trail(idToken, requestID string, caller *Caller) *trail {
	if ca.config.Audit == nil {
		return nil
	}
	return &trail{ca: ca, token: idToken, caller: caller, record: audit.Record{
		RequestID: requestID, IssuerURL: caller.Token.IssuerURL, Entry: caller.Token.Entry,
	}}
}

// named adds the caller's name, once it is known.
func (t *trail) named(kind string) {
	t.record.Kind = kind
	if id := t.caller.Identity; id != nil {
		t.record.Identity = id.SAN.Value
		if len(id.Policy.Rules) > 0 {
			t.record.Policy = id.Policy.Result()
		}
	}
}

// intent records what is about to be signed, and returns when the record is durable. Its refusal is
// AUDIT_UNAVAILABLE.
func (t *trail) intent(ctx context.Context, draft *draft, key *proof.PublicKey) (err error) {
	if t == nil {
		return nil
	}
	draft.steps.begin(StepIntent)
	t.draft, t.record.Serial = draft, hex.EncodeToString(draft.template.SerialNumber)
	t.named(audit.KindIntent)
	r, config := t.record, &t.ca.config
	r.Subject, r.Values, r.Rule = t.caller.Token.Subject, t.caller.Token.Claims, t.caller.Identity.Policy.Rule
	r.TokenID, _ = t.caller.Token.Claims["jti"].(string)
	r.Token, r.Key, r.TBS = digest([]byte(t.token)), digest(key.SPKI), digest(draft.tbs.Precertificate())
	if config.Logs == nil {
		r.TBS = digest(draft.tbs.Certificate(nil))
	}
	r.Authority, r.ConfigGeneration = draft.authority.id, config.Generation
	if config.SetGeneration != nil {
		r.CAGeneration = config.SetGeneration()
	}
	t.entry, err = config.Audit.Append(ctx, &r, nil)
	return err
}

// outcome records a certificate, and returns when the record is durable. Its refusal is AUDIT_UNAVAILABLE.
func (t *trail) outcome(ctx context.Context, issued *Issued) error {
	if t == nil {
		return nil
	}
	t.draft.steps.begin(StepOutcome)
	t.ended = true
	r := &t.record
	r.Kind, r.Reason, r.Certificate = audit.KindOutcome, audit.ReasonOK, digest(issued.Certificate)
	if sct := t.draft.sct; issued.SCTEmbedded {
		r.LogID, r.SCTTime = hex.EncodeToString(sct.LogID[:]), ctlog.Time(sct.Timestamp)
		if index, ok := sct.LeafIndex(); ok {
			r.LeafIndex = &index
		}
	}
	_, err := t.ca.config.Audit.Append(ctx, r, t.entry)
	return err
}

// end records why there is no certificate, unless outcome has recorded one. A nil error is a panic. One
// without a reason may follow from the end of ctx.
func (t *trail) end(ctx context.Context, err error) {
	if t == nil || t.ended {
		return
	}
	reason := refusal.From(err).Reason
	switch kind := reason.Kind(); {
	case errors.Is(ctx.Err(), context.Canceled) && (kind == refusal.Internal || kind == refusal.Unavailable):
		reason = "CANCELED"
	case ctx.Err() != nil && kind == refusal.Internal:
		reason = refusal.Overloaded
	}
	t.record.Reason = string(reason)
	switch {
	case t.entry != nil:
		t.record.Kind = audit.KindOutcome
		_, _ = t.ca.config.Audit.Append(ctx, &t.record, t.entry) // the client gets err in any case
	case reason == refusal.AuditUnavailable:
		t.ca.config.Audit.Refused(string(reason))
	default:
		t.named(audit.KindDenial)
		t.ca.config.Audit.Deny(&t.record)
	}
}

func digest(b []byte) string {
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:])
}
