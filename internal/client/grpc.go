// SPDX-License-Identifier: Apache-2.0

package client

import (
	"context"
	"fmt"
	"net"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"

	fulciov2 "github.com/mayfly-ca/mayfly/proto/gen/fulcio/v2"
)

func (c *Client) overGRPC(ctx context.Context, token string, p evidence) (*Certificate, error) {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	connection, err := grpc.NewClient("passthrough:///"+c.target(), grpc.WithTransportCredentials(c.credentials()),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxResponseSize)))
	if err != nil {
		return nil, fmt.Errorf("asking the CA: %w", err)
	}
	defer connection.Close()
	request := &fulciov2.CreateSigningCertificateRequest{
		Credentials: &fulciov2.Credentials{Credentials: &fulciov2.Credentials_OidcIdentityToken{OidcIdentityToken: token}},
	}
	if p.csr != nil {
		request.Key = &fulciov2.CreateSigningCertificateRequest_CertificateSigningRequest{CertificateSigningRequest: p.csr}
	} else {
		request.Key = &fulciov2.CreateSigningCertificateRequest_PublicKeyRequest{PublicKeyRequest: &fulciov2.PublicKeyRequest{
			PublicKey:         &fulciov2.PublicKey{Content: p.publicKey},
			ProofOfPossession: p.signature,
		}}
	}
	answer, err := fulciov2.NewCAClient(connection).CreateSigningCertificate(ctx, request)
	if err != nil {
		return nil, grpcRefusal(err)
	}
	if detached := answer.GetSignedCertificateDetachedSct(); detached != nil {
		return &Certificate{PEM: detached.GetChain().GetCertificates(), DetachedSCT: detached.GetSignedCertificateTimestamp()}, nil
	}
	return &Certificate{PEM: answer.GetSignedCertificateEmbeddedSct().GetChain().GetCertificates()}, nil
}

// target returns the URL's host, with the default port of its scheme where the URL has none.
func (c *Client) target() string {
	if c.base.Port() != "" {
		return c.base.Host
	}
	if c.base.Scheme == "http" {
		return net.JoinHostPort(c.base.Hostname(), "80")
	}
	return net.JoinHostPort(c.base.Hostname(), "443")
}

func (c *Client) credentials() credentials.TransportCredentials {
	if c.base.Scheme == "http" {
		return insecure.NewCredentials()
	}
	return credentials.NewTLS(c.tls)
}

// grpcRefusal reads reason and request ID from the details of a status.
func grpcRefusal(err error) error {
	s, ok := status.FromError(err)
	if !ok {
		return fmt.Errorf("asking the CA: %w", err)
	}
	e := &Error{Message: s.Message()}
	for _, detail := range s.Details() {
		switch detail := detail.(type) {
		case *errdetails.ErrorInfo:
			e.Reason = detail.GetReason()
		case *errdetails.RequestInfo:
			e.RequestID = detail.GetRequestId()
		}
	}
	if e.Reason == "" {
		return fmt.Errorf("asking the CA: %w", err)
	}
	return e
}
