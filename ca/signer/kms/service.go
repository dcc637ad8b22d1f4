// SPDX-License-Identifier: Apache-2.0

package kms

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"time"

	"github.com/mayfly-ca/mayfly/ca/signer"
	"github.com/mayfly-ca/mayfly/internal/httputil"
)

// Meaning is what an error of a service means to the operator.
type Meaning uint8

const (
	// Other errors stay as they are, and are permanent.
	Other Meaning = iota
	// Passing: the service is overloaded or broken, and a retry may succeed.
	Passing
	// Unauthenticated: the service does not accept our credentials.
	Unauthenticated
	// Forbidden: the service knows us, but we lack a permission.
	Forbidden
	// Absent: the key does not exist.
	Absent
)

// Verdict classifies an error.
type Verdict struct {
	Meaning Meaning
	// RetryAfter is how long the service asked for a pause.
	RetryAfter time.Duration
	// Remedy is what else may help; zero for nothing. It is signer.Reopen if opening the key
	// again loads newer credentials. Passing and network errors are retried anyway.
	Remedy signer.Remedy
}

// Service describes a service for the operator.
type Service struct {
	// Name is the service's name, and URI the key's URI there (kms.uri).
	Name, URI string
	// Credentials and Permission state the fix for Unauthenticated and for Forbidden.
	Credentials, Permission string
	// Reach names the setting of the service's address. Absence states where to look if the key
	// does not exist, and Trust the fix for a certificate that is not trusted.
	Reach, Absence, Trust string
	// Judge classifies an error of the service's client; the zero Verdict if there was no
	// answer.
	Judge func(error) Verdict
}

// Explain returns err with its fix, and as signer.Failure if something may help.
func (s Service) Explain(ctx context.Context, err error) error {
	short := &brief{err}
	if ctx.Err() != nil {
		// The client's error may show what took too long.
		return fmt.Errorf("waiting for %s: %w (%v)", s.Name, ctx.Err(), short)
	}
	v := s.Judge(err)
	var certificate *tls.CertificateVerificationError
	switch {
	case v.Meaning == Unauthenticated && v.Remedy == signer.Retry:
		err = fmt.Errorf("nobody vouches for us to %s: %w; if that does not pass, %s", s.Name, short, s.Credentials)
	case v.Meaning == Unauthenticated:
		err = fmt.Errorf("%s does not accept the credentials: %w; %s", s.Name, short, s.Credentials)
	case v.Meaning == Forbidden:
		err = fmt.Errorf("%s does not let us use the key %s (kms.uri): %w; %s", s.Name, s.URI, short, s.Permission)
	case v.Meaning == Absent:
		err = fmt.Errorf("%s knows no key %s: %w; %s", s.Name, s.URI, short, s.Absence)
	case v.Meaning == Passing:
		return signer.Transient(fmt.Errorf("%s fails: %w; the key is %s (kms.uri)", s.Name, short, s.URI), v.RetryAfter)
	case errors.As(err, &certificate):
		return fmt.Errorf("the certificate of %s is not trusted: %w; %s", s.Name, short, s.Trust)
	case Unreached(err):
		return signer.Transient(fmt.Errorf("%s is not reached: %w; see whether it runs, and whether %s, the network and the proxy are right", s.Name, short, s.Reach), 0)
	default:
		err = fmt.Errorf("%s: the key %s (kms.uri): %w", s.Name, s.URI, short)
	}
	switch v.Remedy {
	case signer.Reopen:
		return signer.Stale(err)
	case signer.Retry:
		return signer.Transient(err, v.RetryAfter)
	}
	return err
}

// Unreached reports whether err is a network error: there was no answer.
func Unreached(err error) bool {
	return errors.As(err, new(net.Error)) || errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF)
}

// JudgeStatus classifies the status and the header of an HTTP response.
func JudgeStatus(status int, header http.Header) Verdict {
	switch status {
	case http.StatusRequestTimeout, http.StatusTooManyRequests, http.StatusInternalServerError,
		http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusGatewayTimeout:
		return Verdict{Meaning: Passing, RetryAfter: httputil.RetryAfter(header, time.Now())}
	case http.StatusUnauthorized:
		return Verdict{Meaning: Unauthenticated}
	case http.StatusForbidden:
		return Verdict{Meaning: Forbidden}
	case http.StatusNotFound:
		return Verdict{Meaning: Absent}
	}
	return Verdict{}
}

// maxErrorText bounds the length of a service's error text.
const maxErrorText = 1000

// brief is an error with a text of one line of bounded length: some clients print whole
// responses.
type brief struct{ error }

func (b *brief) Error() string {
	text := strings.ToValidUTF8(strings.Join(strings.Fields(b.error.Error()), " "), "?")
	if len(text) > maxErrorText {
		text = strings.ToValidUTF8(text[:maxErrorText], "") + "…"
	}
	return text
}

func (b *brief) Unwrap() error { return b.error }
