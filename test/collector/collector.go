// SPDX-License-Identifier: Apache-2.0

// Package collector is an OpenTelemetry collector on loopback: the gRPC service of OTLP for traces.
//
// Only tests import it.
package collector

import (
	"context"
	"net"
	"sync"
	"testing"

	coltracepb "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	tracepb "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
)

// Collector keeps the spans that it gets.
type Collector struct {
	coltracepb.UnimplementedTraceServiceServer
	// URL is the endpoint.
	URL string

	mu       sync.Mutex // guards what follows
	spans    []*tracepb.Span
	headers  metadata.MD
	resource map[string]string
	refuse   func(context.Context) error
}

// New starts a collector, which stops at the end of the test.
func New(t testing.TB) *Collector {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	c := &Collector{URL: "http://" + l.Addr().String(), refuse: func(context.Context) error { return nil }}
	server := grpc.NewServer()
	coltracepb.RegisterTraceServiceServer(server, c)
	done := make(chan error, 1)
	go func() { done <- server.Serve(l) }()
	t.Cleanup(func() {
		server.Stop()
		if err := <-done; err != nil {
			t.Errorf("the collector: %v", err)
		}
	})
	return c
}

// Refuse makes the collector answer each export with the error of refuse; nil accepts it.
func (c *Collector) Refuse(refuse func(context.Context) error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.refuse = refuse
}

// Export implements the service.
func (c *Collector) Export(ctx context.Context, req *coltracepb.ExportTraceServiceRequest) (*coltracepb.ExportTraceServiceResponse, error) {
	c.mu.Lock()
	refuse := c.refuse
	c.mu.Unlock()
	if err := refuse(ctx); err != nil {
		return nil, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.headers, _ = metadata.FromIncomingContext(ctx)
	c.resource = map[string]string{}
	for _, r := range req.GetResourceSpans() {
		for _, attribute := range r.GetResource().GetAttributes() {
			c.resource[attribute.GetKey()] = attribute.GetValue().GetStringValue()
		}
		for _, scope := range r.GetScopeSpans() {
			c.spans = append(c.spans, scope.GetSpans()...)
		}
	}
	return &coltracepb.ExportTraceServiceResponse{}, nil
}

// Spans returns the spans that the collector has.
func (c *Collector) Spans() []*tracepb.Span {
	c.mu.Lock()
	defer c.mu.Unlock()
	return append([]*tracepb.Span(nil), c.spans...)
}

// Last returns the headers of the last export, and the attributes of its resource.
func (c *Collector) Last() (headers metadata.MD, resource map[string]string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.headers, c.resource
}
