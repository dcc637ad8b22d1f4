// SPDX-License-Identifier: Apache-2.0

package socket

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"runtime/debug"
	"strings"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	peers "google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/mayfly-ca/mayfly/ca/signer"
)

// maxLogged bounds the logged text of an error, in octets: it may quote data from peers.
const maxLogged = 1 << 10

// answer answers one request. It continues if the client disconnects: a key that gives no answer in
// the client's time has failed.
func (s *Server) answer(_ any, client context.Context, decode func(any) error, _ grpc.UnaryServerInterceptor) (any, error) {
	var sent []byte
	if err := decode(&sent); client.Err() != nil { // it disconnected, or its time is over
		return nil, status.FromContextError(client.Err()).Err()
	} else if err != nil {
		return nil, s.malformed(client, err.Error())
	}
	if len(sent) < keyIDSize || len(sent) > keyIDSize+MaxMessage {
		return nil, s.malformed(client, fmt.Sprintf("it has %d octets", len(sent)))
	}
	ctx, cancel := context.WithTimeout(s.requests, requestTimeout)
	defer cancel()
	if deadline, ok := client.Deadline(); ok {
		ctx, cancel = context.WithDeadline(ctx, deadline)
		defer cancel()
	}
	signature, err := s.sign(ctx, [keyIDSize]byte(sent), sent[keyIDSize:])
	if err == nil && (len(signature) == 0 || len(signature) > maxSignature) {
		err = fmt.Errorf("the signature has %d octets, which is invalid", len(signature))
	}
	if err != nil {
		return nil, s.explain(ctx, peerName(client), sent, err)
	}
	return &signature, nil
}

// otherMethod refuses a request for another method than that of this release.
func (s *Server) otherMethod(_ any, stream grpc.ServerStream) error {
	name, _ := grpc.MethodFromServerStream(stream)
	_ = s.malformed(stream.Context(), "the method is "+name)
	return status.Errorf(codes.Unimplemented, "it has /%s/%s only", service, method)
}

// malformed counts and logs a request that is not one of this release.
func (s *Server) malformed(client context.Context, why string) error {
	s.cfg.Refused(RefusedMalformed)
	s.log.Log(client, slog.LevelWarn, "a request to the signer is malformed", slog.String("peer", peerName(client)), slog.String("error", cut(why, maxLogged)))
	return status.Error(codeMalformed, "the request is malformed: "+cut(why, maxLogged))
}

// peerName returns the process that sent a request.
func peerName(client context.Context) string {
	p, _ := peers.FromContext(client)
	return p.Addr.String()
}

func (s *Server) sign(ctx context.Context, key [keyIDSize]byte, message []byte) (signature []byte, err error) {
	defer func() {
		if p := recover(); p != nil {
			s.log.Log(ctx, slog.LevelError, "panic while signing", slog.Any("panic", p), slog.String("stack", string(debug.Stack())))
			signature, err = nil, errors.New("internal error; its log has more")
		}
	}()
	return s.cfg.Sign(ctx, key, message)
}

// explain logs err, and returns the status for it.
func (s *Server) explain(ctx context.Context, peer string, sent []byte, err error) error {
	text := err.Error()
	refuse := func(code codes.Code, level slog.Level, message string) *status.Status {
		s.log.Log(ctx, level, message, slog.String("peer", peer), slog.String("key", hex.EncodeToString(sent[:keyIDSize])), slog.Int("octets", len(sent)-keyIDSize), slog.String("error", cut(text, maxLogged)))
		return status.New(code, cut(text, maxText))
	}
	var f *signer.Failure
	switch {
	case errors.Is(err, ErrNotPermitted):
		s.cfg.Refused(RefusedNotPermitted)
		text = strings.TrimPrefix(text, ErrNotPermitted.Error()+": ")
		return refuse(codeNotPermitted, slog.LevelError, "the signer refused a request that its policy does not permit: an attacker may control the server, or it is of another release").Err()
	case errors.Is(err, ErrUnknownKey):
		s.cfg.Refused(RefusedUnknownKey)
		text = strings.TrimPrefix(text, ErrUnknownKey.Error()+": ")
		return refuse(codeUnknownKey, slog.LevelWarn, "the signer refused a request for a key that it does not have").Err()
	case errors.As(err, &f) && f.Remedy == signer.Wait:
		return refuse(codeBusy, slog.LevelWarn, "the signer got more requests than it can sign at a time").Err()
	case signer.IsTransient(err), ctx.Err() != nil: // the request timed out, or the server stops
		unavailable := refuse(codeUnavailable, slog.LevelWarn, "the signer's key is unavailable")
		if f != nil && f.RetryAfter > 0 {
			if withRest, err := unavailable.WithDetails(&errdetails.RetryInfo{RetryDelay: durationpb.New(f.RetryAfter)}); err == nil {
				unavailable = withRest
			}
		}
		return unavailable.Err()
	default:
		return refuse(codeFailed, slog.LevelError, "the signer could not sign").Err()
	}
}

// cut returns text as UTF-8 of at most limit octets.
func cut(text string, limit int) string {
	return strings.ToValidUTF8(text[:min(len(text), limit)], "?") // the result is never longer
}
