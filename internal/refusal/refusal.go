// SPDX-License-Identifier: Apache-2.0

// Package refusal is the vocabulary of every answer that is not a certificate: a stable
// reason for programs, a sentence for the client, and a cause for the operator. They are
// separate, so that none of them reaches the wrong reader.
//
// Every package of the flow may import it; it imports none of them. Only package server
// turns a Kind into a gRPC code and an HTTP status.
package refusal

import (
	"errors"
	"fmt"
	"time"
)

// Kind states which side must act: the caller, its platform team, or the operator.
type Kind uint8

// The kinds. The zero value is Internal, so that a forgotten kind hides the message rather
// than reveals it.
const (
	Internal         Kind = iota // a fault of this process or its operator
	Malformed                    // the request is malformed
	Unauthenticated              // the token does not prove the caller's identity
	Denied                       // the caller is known, and it is not allowed
	SlowDown                     // the caller asks too much
	Unavailable                  // a service that this process depends on is unavailable
	NotFound                     // no such path
	MethodNotAllowed             // the path exists, the method does not
)

// Reason is a stable code, in the manner of google.rpc.ErrorInfo.reason: UPPER_SNAKE_CASE,
// never renamed once released.
type Reason string

// The reasons. Each has exactly one Kind, given by Table.
const (
	RequestMalformed    Reason = "REQUEST_MALFORMED"
	KeyUnsupported      Reason = "KEY_UNSUPPORTED"
	KeyWeak             Reason = "KEY_WEAK"
	CSRInvalid          Reason = "CSR_INVALID"
	ProofInvalid        Reason = "PROOF_INVALID"
	TokenMissing        Reason = "TOKEN_MISSING"
	TokenMalformed      Reason = "TOKEN_MALFORMED"
	TokenExpired        Reason = "TOKEN_EXPIRED"
	TokenNotYetValid    Reason = "TOKEN_NOT_YET_VALID"
	AudienceMismatch    Reason = "AUDIENCE_MISMATCH"
	IssuerNotConfigured Reason = "ISSUER_NOT_CONFIGURED"
	SignatureInvalid    Reason = "SIGNATURE_INVALID"
	ClaimMissing        Reason = "CLAIM_MISSING"
	ClaimInvalid        Reason = "CLAIM_INVALID"
	EmailUnverified     Reason = "EMAIL_UNVERIFIED"
	EmailNotASCII       Reason = "EMAIL_NOT_ASCII"
	PolicyDenied        Reason = "POLICY_DENIED"
	RateLimited         Reason = "RATE_LIMITED"
	Overloaded          Reason = "OVERLOADED"
	IssuerUnreachable   Reason = "ISSUER_UNREACHABLE"
	CTUnavailable       Reason = "CT_UNAVAILABLE"
	SignerUnavailable   Reason = "SIGNER_UNAVAILABLE"
	CAExpiring          Reason = "CA_EXPIRING"
	ClockWrong          Reason = "CLOCK_WRONG"
	AuditUnavailable    Reason = "AUDIT_UNAVAILABLE"
	PathNotFound        Reason = "NOT_FOUND"
	MethodNotPermitted  Reason = "METHOD_NOT_ALLOWED"
	InternalError       Reason = "INTERNAL"
)

// Entry is a row of the table of reasons.
type Entry struct {
	Reason Reason
	Kind   Kind
	// Doc states, in one sentence, what the client must change.
	Doc string
}

// Table returns every reason with its one kind, in the order in which docs/errors.md lists
// them.
func Table() []Entry {
	return []Entry{
		{RequestMalformed, Malformed, "The request is not of the protocol's form: no JSON, a field twice, two tokens that differ, a public key that cannot be read, or more than 64 KiB."},
		{KeyUnsupported, Malformed, "The request has neither a public key nor a certificate signing request, or the key is of a kind that this CA does not certify. The message states what it accepts."},
		{KeyWeak, Malformed, "The private key can be computed from the public key: an RSA modulus that is a prime or a power of a number, that has a small factor or close primes, or that ROCA made; a point of small order or off its curve. Generate a new key with a current library."},
		{CSRInvalid, Malformed, "The certificate signing request cannot be read, or is signed with another algorithm than its key needs."},
		{ProofInvalid, Malformed, "The proof of possession does not verify. The message states what must be signed, and how: the value of a claim, or the certificate signing request."},
		{TokenMissing, Unauthenticated, "There is no ID token. Send one in the header `Authorization: Bearer …` or in the request."},
		{TokenMalformed, Unauthenticated, "The token is not a compact JWS of at most 16 KiB with strictly formed JSON, a registered header member or claim has the wrong type, or the header has `crit` or `b64`."},
		{TokenExpired, Unauthenticated, "The token's `exp` has passed; no time is added for clocks that differ. Get a new one."},
		{TokenNotYetValid, Unauthenticated, "The token's `nbf` is more than five minutes ahead. Compare the clocks."},
		{AudienceMismatch, Unauthenticated, "No `aud` of the token is one that this CA expects of its issuer, or they belong to two profiles. Request a token from the issuer with the audience that the message names."},
		{IssuerNotConfigured, Unauthenticated, "This CA does not trust the token's `iss`, or its operator has disabled the issuer; the message states which. Trailing slashes count. `GET /api/v2/configuration` lists the issuers that it trusts."},
		{SignatureInvalid, Unauthenticated, "The issuer's keys, which were just read, did not sign this token. Or it has no signature, or one with an algorithm that the issuer does not use or that is never accepted (such as `none` and HS256)."},
		{ClaimMissing, Unauthenticated, "A claim that the certificate or the check of the token needs is missing, null or empty. The message names it."},
		{ClaimInvalid, Unauthenticated, "A claim has a kind or value that cannot enter a certificate, or by which another token could get the same name (docs/issuers.md). The message names the claim and what is expected."},
		{EmailUnverified, Unauthenticated, "The token does not state that its issuer has verified the email address (`email_verified`)."},
		{EmailNotASCII, Unauthenticated, "The email address holds letters beyond ASCII, which no verifier of sigstore's reads in a certificate. Use an address of ASCII letters."},
		{PolicyDenied, Denied, "The caller is known, and a rule of this CA or the name constraints of its chain do not permit a certificate for it. The message names the rule or the subtree."},
		{RateLimited, SlowDown, "The client address, the issuer, the identity or the value of a claim has used up its budget by a rule of this CA, which the message names with its limit (docs/limits.md). Or requests from the client address have used its share of the lookups of a pattern's new issuers (docs/discovery.md). Try again after `Retry-After`."},
		{Overloaded, SlowDown, "The CA has as many requests, or lookups of issuers, under way as it takes, it was not the caller's turn within a second, or there was no answer in time. Try again after `Retry-After`."},
		{IssuerUnreachable, Unavailable, "The current keys of the token's issuer cannot be read right now. Or the known keys do not verify the token, and may not be read again yet (docs/discovery.md). Try again after `Retry-After`."},
		{CTUnavailable, Unavailable, "No Certificate Transparency log recorded the certificate in time, so none was issued. Try again."},
		{SignerUnavailable, Unavailable, "The CA's key cannot be used right now. Try again."},
		{CAExpiring, Unavailable, "The CA has nothing to sign with: its own certificate ends before the new one would, or no authority is active. Its operator must rotate it."},
		{ClockWrong, Unavailable, "The CA cannot trust its own clock: it has stepped, or several logs disagree with it. Nothing is issued until the clock is right, or has proven stable. Try again."},
		{AuditUnavailable, Unavailable, "The CA cannot write its audit log right now, without which it issues nothing. Try again."},
		{PathNotFound, NotFound, "There is nothing at this path."},
		{MethodNotPermitted, MethodNotAllowed, "The path exists, and takes another method, which the header `Allow` names."},
		{InternalError, Internal, "The CA failed. Its log has the cause under the request ID."},
	}
}

// kinds has the kinds of the table. It never changes.
var kinds = func() map[Reason]Kind {
	all := make(map[Reason]Kind)
	for _, entry := range Table() {
		all[entry.Reason] = entry.Kind
	}
	return all
}()

// Kind returns the one kind of the reason; Internal for a reason that the table lacks.
func (r Reason) Kind() Kind { return kinds[r] }

// Error is a refusal. It is always used as *Error and found with errors.As.
type Error struct {
	Reason Reason
	// Message is for the client: one sentence that states what was found and what was
	// expected. It never holds a token, a key's name, or the text of Cause.
	Message string
	// RetryAfter is when a retry can succeed; zero leaves it to the server's default for the
	// kind.
	RetryAfter time.Duration
	// Cause is for the operator's log; it may be nil.
	Cause error
}

// New returns a refusal whose message is formatted from format and args.
func New(reason Reason, format string, args ...any) *Error {
	return &Error{Reason: reason, Message: fmt.Sprintf(format, args...)}
}

// Because returns a copy of e with its cause set to err.
func (e *Error) Because(err error) *Error {
	c := *e
	c.Cause = err
	return &c
}

// Error returns the operator's text: reason, message and cause.
func (e *Error) Error() string {
	if e.Cause != nil {
		return fmt.Sprintf("%s: %s: %v", e.Reason, e.Message, e.Cause)
	}
	return fmt.Sprintf("%s: %s", e.Reason, e.Message)
}

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.Cause }

// From returns the refusal in err's chain, or INTERNAL with a message without details: an
// error that is not meant for a client stays hidden from it.
func From(err error) *Error {
	var e *Error
	if errors.As(err, &e) {
		return e
	}
	return New(InternalError, "the certificate authority failed to handle this request; it has been logged under its request ID").Because(err)
}
