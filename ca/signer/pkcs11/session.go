//go:build cgo

// SPDX-License-Identifier: Apache-2.0

package pkcs11

import (
	"context"
	"hash/maphash"
	"sync"
	"sync/atomic"

	p11 "github.com/miekg/pkcs11"
)

// token is the login of this process to a token, which holds for all of its sessions (section 5.6).
// While it lasts, C_Login checks no PIN.
type token struct {
	seed     maphash.Seed  // of the hashes of PINs, which are kept in place of the PINs
	changing chan struct{} // has an element while the login is checked or changed

	// logins counts the logins. Handles of an earlier login are void, and their numbers may be
	// those of other objects.
	logins atomic.Uint64
	// doubted: the module reports a login, and a call has failed as if there were none.
	doubted atomic.Bool

	mu sync.Mutex // guards the fields below; not held in calls
	// accepted is the hash of the PIN of the login; 0 if this package has not logged in.
	accepted uint64
	// refused holds the hashes of PINs that must not be tried: the token has refused the PIN, or
	// C_Login has not returned.
	refused map[uint64]bool
}

// session is a session in a token to which the process is logged in.
type session struct {
	cfg    Config
	lib    *p11.Ctx
	token  *token
	slot   uint
	handle p11.SessionHandle
	logins uint64 // see token.logins
	unread error  // why an attribute could not be read
}

// session opens a session, read-only unless flags say otherwise, and logs in.
func (m *module) session(ctx context.Context, cfg Config, flags uint) (*session, error) {
	pin, _, err := cfg.readPIN()
	if err != nil {
		return nil, err
	}
	defer clear(pin)
	token, slot, tokenFlags, err := m.find(ctx, cfg.Token)
	if err != nil {
		return nil, err
	}
	handle, err := m.lib.OpenSession(slot, p11.CKF_SERIAL_SESSION|flags)
	if err != nil {
		return nil, at("token", "%w", failure("C_OpenSession", err))
	}
	s := &session{cfg: cfg, lib: m.lib, token: token, slot: slot, handle: handle}
	if tokenFlags&p11.CKF_LOGIN_REQUIRED != 0 {
		err = s.logIn(ctx, pin, tokenFlags)
	}
	if err != nil {
		s.end()
		return nil, err
	}
	s.logins = token.logins.Load()
	return s, nil
}

// end closes the session. An error changes nothing.
func (s *session) end() { _ = s.lib.CloseSession(s.handle) }

// logIn logs the process in with pin, unless it is logged in. A process that is logged in with
// another PIN keeps that login: a change of the PIN takes a restart.
func (s *session) logIn(ctx context.Context, pin []byte, flags uint) error {
	if pin == nil {
		return at("pin_file", "is missing, and the token %q requires a login; name a file that holds its user PIN", s.cfg.Token)
	}
	release, err := acquire(ctx, s.token.changing)
	if err != nil {
		return at("token", "%w", err)
	}
	defer release()
	info, err := s.lib.GetSessionInfo(s.handle)
	if err != nil {
		return at("token", "%w", failure("C_GetSessionInfo", err))
	}
	hash := maphash.Bytes(s.token.seed, pin)
	s.token.mu.Lock()
	accepted, refused := s.token.accepted, s.token.refused[hash]
	s.token.mu.Unlock()
	in := info.State == p11.CKS_RO_USER_FUNCTIONS || info.State == p11.CKS_RW_USER_FUNCTIONS
	switch {
	case in && accepted != 0 && accepted != hash:
		return at("pin_file", "the PIN in %s is not the one with which this process is logged in to the token %q; put the right one into the file or, if the token's PIN has changed, restart mayfly", s.cfg.PINFile, s.cfg.Token)
	case in && !s.token.doubted.Load():
		return nil
	case refused:
		return at("pin_file", "the token %q has refused the PIN in %s, or C_Login has not returned; mayfly does not try it again, since a token locks itself after a few wrong ones: put the right one into the file or, if the token's PIN was set to this one since, restart mayfly", s.cfg.Token, s.cfg.PINFile)
	case flags&p11.CKF_USER_PIN_FINAL_TRY != 0: // CK_TOKEN_INFO, section 3.2
		return at("token", "one more wrong PIN locks the token, so mayfly does not try the one in %s; log in by hand once with the right PIN, which resets the count: pkcs11-tool --module %s --token-label %q --login --list-objects", s.cfg.PINFile, s.cfg.Module, s.cfg.Token)
	case in:
		if err := s.lib.Logout(s.handle); err != nil && !is(err, p11.CKR_USER_NOT_LOGGED_IN) {
			return at("token", "%w", failure("C_Logout", err))
		}
	}
	return s.try(pin, hash, flags)
}

// try logs in with pin, once. flags are the token's flags before that.
func (s *session) try(pin []byte, hash uint64, flags uint) error {
	t := s.token
	t.logins.Add(1)
	t.mu.Lock()
	t.refused[hash] = true
	t.mu.Unlock()
	err := s.lib.Login(s.handle, p11.CKU_USER, string(pin))
	in := err == nil || is(err, p11.CKR_USER_ALREADY_LOGGED_IN)
	wrong := is(err, p11.CKR_PIN_INCORRECT, p11.CKR_PIN_INVALID, p11.CKR_PIN_LEN_RANGE)
	remedy, _ := remedyFor(err)
	counted := false // a module may answer otherwise to a wrong PIN, and count it
	if info, err := s.lib.GetTokenInfo(s.slot); !in && err == nil {
		counted = info.Flags&^flags&(p11.CKF_USER_PIN_COUNT_LOW|p11.CKF_USER_PIN_FINAL_TRY|p11.CKF_USER_PIN_LOCKED) != 0
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if in || !wrong && remedy != 0 && !counted {
		delete(t.refused, hash)
	}
	if err == nil {
		t.accepted = hash
	}
	switch {
	case in:
		t.doubted.Store(false)
		return nil
	case wrong:
		return at("pin_file", "the PIN in %s is not the user PIN of the token %q (%s); put the right one into the file, in one line", s.cfg.PINFile, s.cfg.Token, codeName(err))
	}
	return at("token", "%w", failure("C_Login", err))
}
