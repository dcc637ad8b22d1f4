// SPDX-License-Identifier: Apache-2.0

// Package socket has CA keys in a process of their own, which signs over a Unix socket: Open
// returns a key that asks it, a Server is the other end. The front, which reads tokens and
// talks to the world, then holds no key, and can have signed only what the other process lets
// pass.
//
// It may be imported by internal/app and the commands.
package socket

import (
	"context"
	"crypto"
	"crypto/sha256"
	"crypto/x509"
	"errors"
	"fmt"

	"github.com/mayfly-ca/mayfly/ca/signer"
	"github.com/mayfly-ca/mayfly/certs"
)

var (
	// ErrNotPermitted is of a message that the signing process does not sign: a ServerConfig's
	// Sign returns an error that wraps it, and so does the Sign of a key from Open.
	ErrNotPermitted = errors.New("it may not sign this")
	// ErrUnknownKey is of a key that the signing process does not have, likewise.
	ErrUnknownKey = errors.New("it does not have the key")
)

// Config names a key and where it is asked to sign.
type Config struct {
	// Path is that of the socket.
	Path string
	// Public is the key: the signing process has one whose SubjectPublicKeyInfo is the same.
	Public crypto.PublicKey
}

// KeyID is how both ends call a key: the SHA-256 of its SubjectPublicKeyInfo.
func KeyID(public crypto.PublicKey) ([sha256.Size]byte, error) {
	spki, err := x509.MarshalPKIXPublicKey(public)
	if err != nil {
		return [sha256.Size]byte{}, fmt.Errorf("encoding the public key: %w", err)
	}
	return sha256.Sum256(spki), nil
}

// Open connects to the signing process. It does not ask whether that has the key: Sign finds
// out. The key's Sign returns as soon as its ctx ends, and it verifies no signature.
//
// Nothing has to be opened anew after the signing process was away: Sign connects again.
func Open(ctx context.Context, cfg Config) (signer.Key, error) {
	if _, err := certs.SignatureAlgorithmFor(cfg.Public); err != nil {
		return nil, err
	}
	if err := CheckPath(cfg.Path); err != nil {
		return nil, fmt.Errorf("ca.signer_socket: %w", err)
	}
	id, err := KeyID(cfg.Public)
	if err != nil {
		return nil, err
	}
	k := newKey(cfg.Path, cfg.Public, id)
	if _, _, err := k.link(ctx); err != nil {
		return nil, err
	}
	return k, nil
}

// maxPath is what a socket's address has room for, with the NUL at its end (unix(7)).
const maxPath = 107

// CheckPath tells what keeps path from being that of a socket that can be relied on.
func CheckPath(path string) error {
	switch {
	case path == "":
		return errors.New("no socket is named")
	case path[0] == '@', path[0] == 0:
		return fmt.Errorf("the path %q is of an abstract socket, which anybody may take before mayfly signer does; name a file, such as /run/mayfly-signer/s", path)
	case len(path) > maxPath:
		return fmt.Errorf("the path %s has %d octets, and that of a socket has %d at most; choose a shorter one, such as /run/mayfly-signer/s", path, len(path), maxPath)
	}
	return nil
}
