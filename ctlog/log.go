// SPDX-License-Identifier: Apache-2.0

// Package ctlog is Certificate Transparency from the submitter's side: it sends a
// precertificate to a log, and returns a verified signed certificate timestamp or none. Logs
// are not trusted: this package checks every answer against the log's public key and against
// the TBSCertificate that the caller built.
//
// Package ca and app may import it. It does not depend on tokens, identities or
// configuration files.
package ctlog

import (
	"context"
	"fmt"
	"time"
)

// Submission is one precertificate on its way to a log. It must not change any more: a log
// that has lost the race may still read it after Add has returned.
type Submission struct {
	// Chain is DER, the precertificate first, then the chain of the CA that signed it, the
	// root included (RFC 6962, section 4.2).
	Chain [][]byte
	// TBS is the TBSCertificate, DER, without the poison extension and without an SCT list:
	// the data that the log must sign (RFC 6962, section 3.2).
	TBS []byte
	// IssuerKeyHash is the SHA-256 of the SubjectPublicKeyInfo, DER, of the CA that signs
	// the certificate.
	IssuerKeyHash [32]byte
}

// Log is a log to which precertificates are submitted.
//
// It is safe for concurrent use by any number of goroutines.
type Log interface {
	// Name distinguishes the log in log lines and metrics. It is constant, short, and the
	// same after a restart.
	Name() string

	// Submit makes one attempt and never repeats it: the caller decides whether and when to
	// ask which log again. It returns soon after ctx ends, with an error that wraps
	// ctx.Err(): where there is one log only, Add waits for Submit on its own goroutine.
	//
	// A nil error means that the log has promised to include the entry, and for an embedded
	// log that the entry is durable. The SCT is as the log gave it; the caller verifies it. A
	// retry after an error is harmless: the log may then contain the entry twice.
	//
	// An error that wraps *RetryableError states that the same attempt may soon succeed; any
	// other error states that it will not.
	Submit(ctx context.Context, sub Submission) (SCT, error)
}

// RetryableError is a failure that may be over soon, and that became apparent at once: no
// connection, or a log that states that it is busy.
type RetryableError struct {
	// After is the backoff that the log asks for; zero if the log named none.
	After time.Duration
	Err   error
}

// Error returns the text of Err.
func (e *RetryableError) Error() string { return e.Err.Error() }

// Unwrap returns Err.
func (e *RetryableError) Unwrap() error { return e.Err }

// InvalidError is an SCT or a tree head that is not this log's, or not for this submission. It
// indicates a wrong key in the configuration, a wrong clock, or a misbehaving log. A retry
// never helps.
type InvalidError struct{ Err error }

// Error states what is wrong.
func (e *InvalidError) Error() string { return fmt.Sprintf("verifying the log's answer: %v", e.Err) }

// Unwrap returns Err.
func (e *InvalidError) Unwrap() error { return e.Err }
