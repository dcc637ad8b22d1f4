// SPDX-License-Identifier: Apache-2.0

package server

import (
	"cmp"
	"errors"
	"io"
	"net/http"
	"time"

	"github.com/mayfly-ca/mayfly/internal/refusal"
)

// Limits are limits on simultaneous use by clients (limits.md).
//
// They are the same for REST and gRPC, on separate ports or a shared one. A zero field means its
// default. The fields with tags are keys of `limits`.
type Limits struct {
	// Body is the size of the largest request body or gRPC message, in bytes. A larger one is
	// refused as malformed. Default 65536.
	Body int
	// Header is the approximate size of all header fields together, in bytes. Default 32768, enough
	// for the largest ID token.
	Header int
	// Answer is the time limit for an answer after its request has been read. npm times out after 5
	// s. Default 4.5 s.
	Answer time.Duration
	// ReadHeader and Read limit the time in which a request's header, and the whole request, must
	// arrive. Defaults 5 s and 10 s.
	ReadHeader, Read time.Duration
	// Write limits the time from a request's header to the end of its answer. Default 20 s.
	Write time.Duration
	// Streams is the number of requests in progress on one HTTP/2 connection. Default 100.
	Streams int
	// Connections is the number of connections that the HTTP and gRPC listeners keep open together.
	// 0 derives it from the limit on file descriptors, at most 2048. At the limit, a new connection
	// replaces one without a request.
	Connections int `key:"connections" min:"0"`
	// Idle is the time that a connection may stay open without a request. It must be longer than load
	// balancers in front keep idle connections, or requests are lost; 600s is the longest of the
	// common ones.
	Idle time.Duration `key:"idle" default:"650s" min:"1s" max:"24h"`
	// InFlight is the number of requests answered at a time. One more is refused with OVERLOADED.
	InFlight int `key:"in_flight" default:"512" min:"1"`
	// Descriptors, if not zero, is the lowest file descriptor that connections leave free for all
	// other uses, see connections.
	Descriptors int
}

// opsConnections is the number of open connections of the ops listener.
const opsConnections = 32

// withDefaults returns l with defaults in its zero fields.
func (l Limits) withDefaults() Limits {
	l.Body = cmp.Or(l.Body, 64<<10)
	l.Header = cmp.Or(l.Header, 32<<10)
	l.InFlight = cmp.Or(l.InFlight, 512)
	l.Answer = cmp.Or(l.Answer, 4500*time.Millisecond)
	l.ReadHeader = cmp.Or(l.ReadHeader, 5*time.Second)
	l.Read = cmp.Or(l.Read, 10*time.Second)
	l.Write = cmp.Or(l.Write, 20*time.Second)
	l.Idle = cmp.Or(l.Idle, 650*time.Second)
	l.Streams = cmp.Or(l.Streams, 100)
	return l
}

const (
	// ordinaryBody is the expected limit of a request body. A larger body needs a place, because a
	// client can keep it in memory for Limits.Read.
	ordinaryBody = 16 << 10
	// slotsPerLarge is the number of slots for each larger body that may arrive at a time.
	slotsPerLarge = 8
)

// readBody returns r's body: at most Limits.Body, plus frame bytes of framing. It never holds more
// in memory.
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
