// SPDX-License-Identifier: Apache-2.0

package server

import (
	"io"
	"net/http"

	"github.com/mayfly-ca/mayfly/internal/refusal"
)

// handlersPerSlot is the number of HTTP/2 requests that may be in progress for each slot. The
// others send their bodies, read their answers, watch the server's health, or read a mount. The
// share of one client address, which may be a proxy's, is larger than all slots. So many fast
// requests get OVERLOADED instead of a reset.
const handlersPerSlot = 3

// track is the outermost handler of the API listeners. It bounds the HTTP/2 requests in progress,
// keeps the connection of a request open, and closes it after the answer once shutdown has begun.
func (s *Server) track(h http.Handler) http.Handler {
	return keepBusy(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		c, _ := r.Context().Value(connKey{}).(*conn)
		s.closeLater(w, r, c)
		if r.ProtoMajor < 2 { // one request for each connection in any case
			h.ServeHTTP(w, r)
			return
		}
		s.bounded(w, r, c, h)
	}))
}

// closeLater makes an answer close its connection once shutdown has begun, by Connection: close.
// For HTTP/2, net/http converts that header to GOAWAY. A proxy cannot repeat a request that crosses
// GOAWAY, so connections from before get it in the second half of the grace: in the first half, the
// proxy notices that readiness fails.
func (s *Server) closeLater(w http.ResponseWriter, r *http.Request, c *conn) {
	from := s.health.stopping
	if r.ProtoMajor == 2 && c != nil && !c.late {
		from = s.leaving
	}
	if isClosed(from) {
		w.Header().Set("Connection", "close")
	}
}

// bounded limits the HTTP/2 requests in progress: one for each connection, and a number for all
// connections together. One client address gets at most half of that number. The limit is for
// memory. Without it, a client that sends bodies slowly, or gives answers no window, could hold
// connections times streams. A request beyond the limit is reset, since any answer may wait for its
// client.
func (s *Server) bounded(w http.ResponseWriter, r *http.Request, c *conn, h http.Handler) {
	if c != nil {
		defer c.streams.Add(-1)
	}
	if c == nil || c.streams.Add(1) > 1 {
		client := s.clientAddr(r)
		if !s.handlers.Take(client, s.now()) {
			s.metrics.requests.WithLabelValues(apiOf(r.URL.Path), methodUnknown, string(refusal.Overloaded)).Inc()
			panic(http.ErrAbortHandler)
		}
		defer s.handlers.Give(client)
	}
	h.ServeHTTP(w, r)
	// The rest of the answer waits for its client here, where the request still counts.
	_ = http.NewResponseController(w).Flush()
}

// keepBusy keeps a connection open while h answers a request on it. It does so from the last byte
// of the request's body to the first byte of the answer, which may wait for its client.
func keepBusy(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		c, _ := r.Context().Value(connKey{}).(*conn)
		if c == nil {
			h.ServeHTTP(w, r)
			return
		}
		x := &exchange{ResponseWriter: w, ReadCloser: r.Body, conn: c, http2: r.ProtoMajor == 2}
		defer func() {
			// An answer to an incomplete request, such as a refusal, counts too.
			if x.begun || c.begin(x.http2) {
				c.end(x.answers)
			}
		}()
		if r.ContentLength == 0 {
			x.begin()
		} else {
			r.Body = x
		}
		h.ServeHTTP(x, r)
	})
}

// exchange is the body of a request and the writer of its answer. It records when the request has
// been read completely, and when its answer begins.
type exchange struct {
	http.ResponseWriter
	io.ReadCloser
	conn    *conn
	http2   bool
	begun   bool // the request has been read completely
	stays   bool // the connection stays busy until the end of the answer
	answers bool // the answer has begun, so it no longer keeps the connection busy
}

// stayBusy keeps a connection open until the end of an answer. It is for answers of which few are
// in progress at a time.
func stayBusy(w http.ResponseWriter) {
	if x, ok := w.(*exchange); ok {
		x.stays = true
	}
}

// Read reads the request's body. It aborts the handler if the connection is being closed before the
// end of the body: an incomplete request is not answered.
func (x *exchange) Read(p []byte) (int, error) {
	n, err := x.ReadCloser.Read(p)
	if err == io.EOF && !x.begun {
		x.begin()
	}
	if err != nil && !x.begun && x.conn.gone() {
		x.abort()
	}
	return n, err
}

// begin aborts the handler if the connection is being closed. The client gets no answer, and its
// request has had no effect.
func (x *exchange) begin() {
	if x.begun = x.conn.begin(x.http2); !x.begun {
		x.abort()
	}
}

// abort aborts the handler once the connection is closed. Otherwise net/http would reset the stream
// before the GOAWAY that permits the client to send the request again.
func (x *exchange) abort() {
	<-x.conn.ended
	panic(http.ErrAbortHandler)
}

// WriteHeader, Write and Flush are those of the ResponseWriter.
func (x *exchange) WriteHeader(status int) {
	if status >= http.StatusOK {
		x.answer()
	}
	x.ResponseWriter.WriteHeader(status)
}
func (x *exchange) Write(p []byte) (int, error) {
	x.answer()
	return x.ResponseWriter.Write(p)
}
func (x *exchange) Flush() {
	x.answer()
	_ = http.NewResponseController(x.ResponseWriter).Flush() // fails only without a connection
}

// Unwrap is for http.ResponseController.
func (x *exchange) Unwrap() http.ResponseWriter { return x.ResponseWriter }

// answer records that the answer begins.
func (x *exchange) answer() {
	if !x.answers && !x.stays && x.begun {
		x.answers = true
		x.conn.answer()
	}
}
