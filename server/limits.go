// SPDX-License-Identifier: Apache-2.0

package server

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"time"

	"github.com/mayfly-ca/mayfly/internal/refusal"
)

// Limits bound what a caller can make the server do. They are the same for REST and gRPC,
// on ports of their own and on a shared one. A zero field means its default.
type Limits struct {
	// Body is the size of the largest request body or gRPC message, in bytes. A larger one
	// is refused as malformed. Default 65536.
	Body int
	// Header is about the size of all header fields together, in bytes. Default 32768,
	// which leaves room for the largest ID token.
	Header int
	// InFlight is how many requests may be answered at the same time; one more is refused
	// at once with OVERLOADED. Default 512.
	InFlight int
	// Answer is how long an answer may take once its request has been read: npm gives up
	// after 5 s. Default 4.5 s.
	Answer time.Duration
	// ReadHeader and Read are how long a request's header, and the whole request, may take
	// to arrive. Defaults 5 s and 10 s.
	ReadHeader, Read time.Duration
	// Write is how long it may take from a request's header to the end of its answer.
	// Default 20 s.
	Write time.Duration
	// Idle is how long a connection may stay open without a request. Default 650 s, more than
	// the 600 s of the load balancer that keeps idle connections longest: the side that sends
	// requests must be the one that closes.
	Idle time.Duration
	// Streams is how many requests may be under way on one HTTP/2 connection. Default 100.
	Streams int
	// Connections is how many connections the listeners for HTTP and gRPC keep open together.
	// At this bound a new one takes the place of one without a request, see connections. Zero means
	// no limit. The ops listener has opsConnections of its own.
	Connections int
	// Descriptors, if it is not zero, is the lowest file descriptor that connections leave to
	// everything besides them, see connections.
	Descriptors int
}

// opsConnections is how many connections the ops listener keeps open.
const opsConnections = 32

// withDefaults returns l with its zero fields filled in, and what is wrong with the others.
func (l Limits) withDefaults() (Limits, []error) {
	var errs []error
	if l.Connections < 0 || l.Descriptors < 0 {
		errs = append(errs, errors.New("server: Limits.Connections and Limits.Descriptors must not be negative"))
	}
	for _, n := range []struct {
		name     string
		value    *int
		fallback int
	}{
		{"Body", &l.Body, 64 << 10},
		{"Header", &l.Header, 32 << 10},
		{"InFlight", &l.InFlight, 512},
		{"Streams", &l.Streams, 100},
	} {
		if *n.value < 0 {
			errs = append(errs, fmt.Errorf("server: Limits.%s must not be negative", n.name))
		}
		if *n.value == 0 {
			*n.value = n.fallback
		}
	}
	for _, d := range []struct {
		name     string
		value    *time.Duration
		fallback time.Duration
	}{
		{"Answer", &l.Answer, 4500 * time.Millisecond},
		{"ReadHeader", &l.ReadHeader, 5 * time.Second},
		{"Read", &l.Read, 10 * time.Second},
		{"Write", &l.Write, 20 * time.Second},
		{"Idle", &l.Idle, 650 * time.Second},
	} {
		if *d.value < 0 {
			errs = append(errs, fmt.Errorf("server: Limits.%s must not be negative", d.name))
		}
		*d.value = orDefault(*d.value, d.fallback)
	}
	return l, errs
}

const (
	// ordinaryBody is what the body of a request is expected to have at most. A larger one needs a
	// place, since a client can keep it in memory for as long as Limits.Read.
	ordinaryBody = 16 << 10
	// slotsPerLarge is how many times fewer larger bodies arrive at a time than requests are answered.
	slotsPerLarge = 8
)

// readBody returns r's body: Limits.Body at most, and the bytes that frame it. It never takes
// more into memory.
func (s *Server) readBody(w http.ResponseWriter, r *http.Request, frame int) ([]byte, error) {
	limit := s.limits.Body
	tooLarge := refusal.New(refusal.RequestMalformed, "the request is larger than %d bytes, which is the limit", limit)
	most := int64(limit + frame)
	if r.ContentLength > most {
		return nil, tooLarge
	}
	bounded := http.MaxBytesReader(w, r.Body, most)
	body, err := io.ReadAll(io.LimitReader(bounded, ordinaryBody))
	if err == nil && len(body) == ordinaryBody {
		client := s.clientAddr(r)
		if !s.large.Take(client, s.now()) {
			return nil, refusal.New(refusal.Overloaded, "the server is reading as many requests of more than %d bytes as it can; try again in a moment", ordinaryBody)
		}
		defer s.large.Give(client)
		var rest []byte
		rest, err = io.ReadAll(bounded)
		body = append(body, rest...)
	}
	if err == nil {
		return body, nil
	}
	var over *http.MaxBytesError
	if errors.As(err, &over) {
		return nil, tooLarge
	}
	return nil, refusal.New(refusal.RequestMalformed, "the request body ended before it was complete, or took too long to arrive").Because(err)
}
