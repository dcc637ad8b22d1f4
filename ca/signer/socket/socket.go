// SPDX-License-Identifier: Apache-2.0

// Package socket keeps CA keys in a separate process, which signs over a Unix socket. Open returns
// a key that sends requests to it; a Server is the other end. The front, which reads tokens and
// serves clients, then holds no key. It gets signatures only for what the other process permits.
//
// The protocol is gRPC with one method, whose name holds the version of the protocol. A request is
// the KeyID and the message, which is not hashed; the answer is the signature, as certificates hold
// it. The status of an error has a text for the operator.
//
// It may be imported by app and the commands.
package socket

import (
	"crypto"
	"crypto/sha256"
	"crypto/x509"
	"errors"
	"fmt"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/mem"
)

const (
	// service and method change with every change of the protocol. Version 1 was not gRPC.
	service = "mayfly.signer.v2"
	method  = "Sign"

	keyIDSize = sha256.Size
	// MaxMessage is the size of the longest message, in octets.
	MaxMessage   = 64 << 10
	maxSignature = 2 << 10 // RSA of 16384 bits
	maxText      = 2 << 10
	maxHeader    = 16 << 10 // has room for an escaped text

	// The codes of the errors. gRPC itself uses others.
	codeNotPermitted = codes.PermissionDenied
	codeUnknownKey   = codes.NotFound
	codeUnavailable  = codes.Aborted
	codeBusy         = codes.OutOfRange
	codeFailed       = codes.FailedPrecondition
	codeMalformed    = codes.InvalidArgument
)

// octets is the codec of messages, which are *[]byte.
type octets struct{}

// Name implements encoding.CodecV2.
func (octets) Name() string { return "octets" }

// Marshal implements encoding.CodecV2.
func (octets) Marshal(v any) (mem.BufferSlice, error) {
	return mem.BufferSlice{mem.SliceBuffer(*v.(*[]byte))}, nil
}

// Unmarshal implements encoding.CodecV2. It copies: a key that hangs may read its message later.
func (octets) Unmarshal(data mem.BufferSlice, v any) error {
	*v.(*[]byte) = data.Materialize()
	return nil
}

// ErrUnknownKey means that the signing process does not have the key. Sign of a ServerConfig returns
// an error that wraps it, and so does Sign of a key from Open.
var ErrUnknownKey = errors.New("it does not have the key")

// KeyID returns the ID of a key at both ends: the SHA-256 of its SubjectPublicKeyInfo.
func KeyID(public crypto.PublicKey) ([sha256.Size]byte, error) {
	spki, err := x509.MarshalPKIXPublicKey(public)
	if err != nil {
		return [sha256.Size]byte{}, fmt.Errorf("encoding the public key: %w", err)
	}
	return sha256.Sum256(spki), nil
}

// maxPath is the longest path that fits into a socket's address, with the NUL at its end (unix(7)).
const maxPath = 107

// CheckPath returns an error if path is unsuitable for a socket. Any user can create an abstract
// socket before mayfly signer does.
func CheckPath(path string) error {
	if path == "" || path[0] == '@' || path[0] == 0 || len(path) > maxPath {
		return fmt.Errorf("found %q; name the path of a file of 1 to %d octets, such as /run/mayfly-signer/s, and no abstract socket", path, maxPath)
	}
	return nil
}
