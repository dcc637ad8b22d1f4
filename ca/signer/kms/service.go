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
	"strconv"
	"strings"
	"time"

	"github.com/mayfly-ca/mayfly/ca/signer"
)

// Meaning is what an error of a service means to the operator.
type Meaning uint8

const (
	// Other errors stay as they are, and are permanent.
	Other Meaning = iota
	// Passing: the service is overloaded or broken, and the same again may succeed.
	Passing
	// Unauthenticated: the service does not know us.
	Unauthenticated
	// Forbidden: it knows us, and we may not.
	Forbidden
	// Absent: there is no such key.
	Absent
)

// Verdict is what is to be made of an error.
type Verdict struct {
	Meaning Meaning
	// RetryAfter is for how long the service wants to be left alone.
	RetryAfter time.Duration
	// Remedy is what may help besides, and zero for nothing: signer.Reopen if a key opened
	// anew gets newer credentials. What is Passing, or of the network, is tried again anyway.
	Remedy signer.Remedy
}

// Service is a service in the words of its operator.
type Service struct {
	// Name is the service's, and URI the key's there: kms.uri.
	Name, URI string
	// Credentials and Permission are what to do when it does not know us, and when we may not.
	Credentials, Permission string
	// Reach is the setting that says where it is, Absence where to look when there is no such
	// key, and Trust what to do when the service's certificate is not trusted.
	Reach, Absence, Trust string
	// Judge tells what an error of the service's client means; the zero Verdict where nobody
	// answered.
	Judge func(error) Verdict
}

// Explain returns err with what to do about it, and as signer.Failure if something may help.
func (s Service) Explain(ctx context.Context, err error) error {
	short := &brief{err}
	if ctx.Err() != nil {
		// What the client says of it may tell what it was that had no end.
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
		return signer.Transient(fmt.Errorf("%s is in trouble: %w; the key is %s (kms.uri)", s.Name, short, s.URI), v.RetryAfter)
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

// Unreached tells whether err is of the network: nobody answered.
func Unreached(err error) bool {
	return errors.As(err, new(net.Error)) || errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF)
}

// JudgeStatus is the verdict on the status and the header of an HTTP response.
func JudgeStatus(status int, header http.Header) Verdict {
	switch status {
	case http.StatusRequestTimeout, http.StatusTooManyRequests, http.StatusInternalServerError,
		http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusGatewayTimeout:
		return Verdict{Meaning: Passing, RetryAfter: retryAfter(header.Get("Retry-After"), time.Now())}
	case http.StatusUnauthorized:
		return Verdict{Meaning: Unauthenticated}
	case http.StatusForbidden:
		return Verdict{Meaning: Forbidden}
	case http.StatusNotFound:
		return Verdict{Meaning: Absent}
	}
	return Verdict{}
}

// retryAfter parses Retry-After (RFC 9110, section 10.2.3): seconds, or a date. What is
// neither, or over, is zero.
func retryAfter(value string, now time.Time) time.Duration {
	if seconds, err := strconv.ParseUint(value, 10, 31); err == nil {
		return time.Duration(seconds) * time.Second
	}
	if date, err := http.ParseTime(value); err == nil {
		return max(date.Sub(now), 0)
	}
	return 0
}

// maxErrorText bounds what is shown of a service's words.
const maxErrorText = 1000

// brief is an error whose text is one line of bounded length: some clients print whole
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
