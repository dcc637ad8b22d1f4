// SPDX-License-Identifier: Apache-2.0

// Package ctlog is Certificate Transparency from the submitter's side: a precertificate
// goes to a log, and a signed certificate timestamp that has been verified comes back, or
// nothing does. Logs are not trusted: whatever one answers is checked here against its
// public key and against the TBSCertificate that the caller built.
//
// Package ca and internal/app may import it. It knows nothing of tokens, identities or
// configuration files.
package ctlog

import (
	"context"
	"fmt"
	"time"
)

// Submission is one precertificate on its way to a log. Nothing may change it any more: a
// log that has lost the race may still read it when Add has returned.
type Submission struct {
	// Chain is DER, the precertificate first, then the chain of the CA that signed it, the
	// root included (RFC 6962, section 4.2).
	Chain [][]byte
	// TBS is the TBSCertificate, DER, without the poison extension and without an SCT list:
	// what the log has to sign (RFC 6962, section 3.2).
	TBS []byte
	// IssuerKeyHash is the SHA-256 of the SubjectPublicKeyInfo, DER, of the CA that signs
	// the certificate.
	IssuerKeyHash [32]byte
}

// Log is somewhere to submit precertificates to.
//
// It is safe for concurrent use by any number of goroutines.
type Log interface {
	// Name tells the log from others in log lines and metrics. It is constant, short, and
	// the same after a restart.
	Name() string

	// Submit makes one attempt and never repeats it: who asks again, when, and whom, is
	// the caller's business. It returns soon after ctx ends, with an error that wraps
	// ctx.Err().
	//
	// A nil error means that the log has promised to include the entry, and for a log of
	// our own that the entry is durable. The SCT is as the log gave it; the caller verifies
	// it. An attempt after an error is harmless: the entry may then be logged twice.
	//
	// An error that wraps *RetryableError says that the same attempt may soon succeed; any
	// other says that it will not.
	Submit(ctx context.Context, sub Submission) (SCT, error)
}

// Trusting is a Log that does not verify the precertificate's signature, as RFC 6962, section
// 3.1, has logs do: whoever submits to it has.
type Trusting interface {
	Log
	// Trusting does nothing.
	Trusting()
}

// RetryableError is a failure that may be over soon, and that was quick to show itself: no
// connection, or a log that says that it is busy.
type RetryableError struct {
	// After is how long the log wants to be left alone; zero if it did not say.
	After time.Duration
	Err   error
}

// Error is the text of Err.
func (e *RetryableError) Error() string { return e.Err.Error() }

// Unwrap returns Err.
func (e *RetryableError) Unwrap() error { return e.Err }

// InvalidSCTError is an answer of a log that is no SCT of this log for this submission. It
// points to a wrong key in the configuration, a clock that is off, or a log that misbehaves,
// and never goes away by asking again.
type InvalidSCTError struct{ Err error }

// Error says what is wrong with the SCT.
func (e *InvalidSCTError) Error() string { return fmt.Sprintf("verifying SCT: %v", e.Err) }

// Unwrap returns Err.
func (e *InvalidSCTError) Unwrap() error { return e.Err }
