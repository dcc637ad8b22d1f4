// SPDX-License-Identifier: Apache-2.0

package socket

import (
	"context"
	"io"
	"net"
	"testing"
	"testing/synctest"
	"time"
)

// oneConnection is a listener that accepts one connection.
type oneConnection chan net.Conn

func (l oneConnection) Accept() (net.Conn, error) {
	if c, ok := <-l; ok {
		return c, nil
	}
	return nil, net.ErrClosed
}

func (oneConnection) Close() error   { return nil }
func (oneConnection) Addr() net.Addr { return peer{} }

// The server closes a connection that has no request for two minutes.
func TestIdleConnectionsAreClosed(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s, err := NewServer(ServerConfig{Path: "s", Sign: func(context.Context, [keyIDSize]byte, []byte) ([]byte, error) { return nil, nil }})
		if err != nil {
			t.Fatal(err)
		}
		client, accepted := net.Pipe()
		l := make(oneConnection, 1)
		l <- accepted
		served := make(chan error, 1)
		go func() { served <- s.grpc.Serve(l) }()
		began := time.Now()
		go func() {
			_, _ = io.WriteString(client, "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00")
		}()
		if _, err := io.Copy(io.Discard, client); err != nil {
			t.Error(err)
		}
		if took := time.Since(began); took < 2*time.Minute || took > 4*time.Minute {
			t.Errorf("the idle connection was closed after %s, want 2 minutes and the time for its client to finish", took)
		}
		close(l)
		s.grpc.Stop()
		<-served
	})
}
