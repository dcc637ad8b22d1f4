//go:build cgo

// SPDX-License-Identifier: Apache-2.0

package pkcs11

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"

	p11 "github.com/miekg/pkcs11"

	"github.com/mayfly-ca/mayfly/ca/signer"
	"github.com/mayfly-ca/mayfly/internal/keypath"
)

// visit is a session in a token to which the process is logged in.
type visit struct {
	cfg     Config
	file    pinFile
	token   *token
	lib     *p11.Ctx
	slot    uint
	session p11.SessionHandle
	login   uint64 // see token.logins
	unread  error  // why an attribute could not be read
}

// moduleOf returns the module of a Config, which must be complete.
func (m *Modules) moduleOf(cfg Config) (*module, error) {
	if err := cfg.complete(); err != nil {
		return nil, err
	}
	return m.load(cfg.Module)
}

// visit opens a session, read-only unless flags say otherwise, and logs in.
func (m *module) visit(ctx context.Context, cfg Config, flags uint) (_ *visit, err error) {
	var pin []byte
	file := pinFile{path: cfg.PINFile}
	if cfg.PINFile != "" {
		if info, err := os.Stat(cfg.PINFile); err == nil { // before the read, so that a later change counts
			file.written = info.ModTime()
		}
		if pin, _, err = readPIN(cfg.PINFile); err != nil {
			return nil, err
		}
		defer clear(pin)
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	token, slot, err := m.find(ctx, cfg.Token)
	if err != nil {
		return nil, err
	}
	session, err := m.lib.OpenSession(slot, p11.CKF_SERIAL_SESSION|flags)
	if err != nil {
		return nil, atToken(failure("C_OpenSession", err))
	}
	token.enter()
	v := &visit{cfg: cfg, file: file, token: token, lib: m.lib, slot: slot, session: session}
	if err := v.logIn(ctx, pin); err != nil {
		v.end()
		return nil, err
	}
	return v, nil
}

// end closes the session. It ignores the error, which changes nothing.
func (v *visit) end() {
	_ = v.lib.CloseSession(v.session)
	v.token.leave()
}

func atToken(err error) error { return keypath.Errorf([]string{"token"}, "%w", err) }

// logIn logs the process in with pin, whatever its login was until now. A login holds for all
// sessions, so C_Login checks no PIN while there is one: it then answers
// CKR_USER_ALREADY_LOGGED_IN to a wrong PIN too.
func (v *visit) logIn(ctx context.Context, pin []byte) error {
	flags, err := v.flags()
	if err != nil {
		return err
	}
	if flags&p11.CKF_LOGIN_REQUIRED == 0 {
		v.login = v.token.login()
		return nil
	}
	// A visit with a valid login waits for no other login, which may hang.
	if _, right, err := v.state(ctx, pin); err != nil || right {
		return err
	}
	if err := v.token.changing.acquire(ctx); err != nil {
		return atToken(fmt.Errorf("waiting for another login to end: %w", err))
	}
	defer v.token.changing.release()
	in, right, err := v.state(ctx, pin)
	if err != nil || right { // another visit has logged in meanwhile
		return err
	}
	if flags, err = v.flags(); err != nil {
		return err
	}
	if err := v.mayTry(pin, flags); err != nil {
		return err
	}
	err = p11.Error(p11.CKR_USER_ALREADY_LOGGED_IN)
	if !in {
		v.token.sessionsEnded()
		err = v.try(pin, flags)
	}
	if is(err, p11.CKR_USER_ALREADY_LOGGED_IN) {
		err = v.replace(ctx, pin, flags)
	}
	v.login = v.token.login()
	return err
}

// flags returns the token's flags.
func (v *visit) flags() (uint, error) {
	info, err := v.lib.GetTokenInfo(v.slot)
	if err != nil {
		return 0, atToken(failure("C_GetTokenInfo", err))
	}
	return info.Flags, nil
}

// state reports whether the process is logged in, and whether with pin and in a valid login. A
// doubted login is tried first and not replaced at once. A replacement disturbs all keys of the
// token, and C_Logout may hang while another call does.
func (v *visit) state(ctx context.Context, pin []byte) (in, right bool, err error) {
	share, err := v.token.share(ctx)
	if err != nil {
		return false, false, atToken(err)
	}
	defer func() { _ = share.end() }() // the next use of a handle detects that v.login is past
	v.login = share.login
	info, err := v.lib.GetSessionInfo(v.session)
	if err != nil {
		return false, false, atToken(failure("C_GetSessionInfo", err))
	}
	in = info.State == p11.CKS_RO_USER_FUNCTIONS || info.State == p11.CKS_RW_USER_FUNCTIONS
	trusted, doubted := v.token.trusts(pin)
	if in && trusted && doubted {
		if trusted = v.signs(); trusted {
			v.token.believe(v.login)
		}
	}
	return in, in && trusted, nil
}

// signs reports whether the key signs. A module may find the key in its own memory, and rely on a
// login that the token has lost. signs uses a new session, since after a failed call the state of
// a session is unknown. Its caller holds a share.
func (v *visit) signs() bool {
	session, err := v.lib.OpenSession(v.slot, p11.CKF_SERIAL_SESSION)
	if err != nil {
		return false
	}
	defer func() { _ = v.lib.CloseSession(session) }() // an error changes nothing
	handle, public, err := v.find()
	if err != nil {
		return false
	}
	how, err := schemeOf(public)
	if err != nil {
		return false
	}
	_, err = v.sign(session, handle, how, []byte(signer.SelfTestMessage))
	return err == nil
}

// mayTry refuses a PIN that the token has refused before. It refuses every PIN if one more wrong
// attempt locks the token (CK_TOKEN_INFO, section 3.2).
func (v *visit) mayTry(pin []byte, flags uint) error {
	switch {
	case flags&p11.CKF_USER_PIN_LOCKED != 0:
		return atToken(fmt.Errorf("the user PIN of the token %q is locked, after too many wrong ones; the security officer has to set a new PIN: %s", v.cfg.Token, initPIN))
	case flags&p11.CKF_USER_PIN_INITIALIZED == 0:
		return atToken(fmt.Errorf("the token %q has no user PIN yet; the security officer has to set it: %s", v.cfg.Token, initPIN))
	case pin == nil:
		return keypath.Errorf([]string{"pin_file"}, "is missing, and the token %q wants a login; name a file that holds its user PIN", v.cfg.Token)
	case v.token.hasRefused(pin, v.file):
		return keypath.Errorf([]string{"pin_file"}, "the token %q has refused the PIN in %s; it is not tried a second time, as the token locks itself after a few: put the right one into the file. If the token's PIN has been set to this one since, write the file again, after which it is tried once more, or restart mayfly", v.cfg.Token, v.cfg.PINFile)
	case flags&p11.CKF_USER_PIN_FINAL_TRY != 0:
		return atToken(fmt.Errorf("one wrong PIN more locks the token %q, so mayfly does not try the one in %s (pkcs11.pin_file); log in by hand once with the right PIN, which takes the warning back: pkcs11-tool --module %s --token-label %[1]q --login --list-objects", v.cfg.Token, v.cfg.PINFile, v.cfg.Module))
	case flags&p11.CKF_USER_PIN_TO_BE_CHANGED != 0:
		return atToken(fmt.Errorf("the token %q wants its user PIN changed before it is used; run: pkcs11-tool --module %s --token-label %[1]q --login --change-pin, and put the new one into %s (pkcs11.pin_file)", v.cfg.Token, v.cfg.Module, v.cfg.PINFile))
	}
	return nil
}

// wrongPIN reports whether err is an answer of a module to a PIN that it does not accept.
func wrongPIN(err error) bool {
	return is(err, p11.CKR_PIN_INCORRECT, p11.CKR_PIN_INVALID, p11.CKR_PIN_LEN_RANGE)
}

// try logs in with pin, once. flags are the token's flags before the attempt.
func (v *visit) try(pin []byte, flags uint) error {
	err := v.lib.Login(v.session, p11.CKU_USER, string(pin))
	switch {
	case err == nil:
		v.token.loggedIn(pin)
		return nil
	case is(err, p11.CKR_USER_ALREADY_LOGGED_IN):
		return err
	case wrongPIN(err):
		v.token.refuse(pin, v.file)
		hint := ""
		if bytes.ContainsAny(pin, "\r\n") {
			hint = "; it has more than one line, and all of them count"
		}
		return keypath.Errorf([]string{"pin_file"}, "the PIN in %s is not the user PIN of the token %q (C_Login answered %s)%s; it is not tried again: put the right one into the file",
			v.cfg.PINFile, v.cfg.Token, codeName(code(err)), hint)
	case is(err, p11.CKR_PIN_LOCKED, p11.CKR_PIN_EXPIRED, p11.CKR_USER_PIN_NOT_INITIALIZED):
	case v.counted(flags), remedy(failure("C_Login", err)) == 0:
		// The answer is another error, but the cause may be a wrong PIN.
		v.token.refuse(pin, v.file)
	}
	return atToken(failure("C_Login", err))
}

// code returns the code in err.
func code(err error) (c p11.Error) {
	errors.As(err, &c)
	return c
}

// counted reports whether the token has begun to count wrong PINs since it had flags.
func (v *visit) counted(flags uint) bool {
	info, err := v.lib.GetTokenInfo(v.slot)
	return err == nil && info.Flags&^flags&(p11.CKF_USER_PIN_COUNT_LOW|p11.CKF_USER_PIN_FINAL_TRY|p11.CKF_USER_PIN_LOCKED) != 0
}

// replace logs the process out and logs in with pin, while no call uses the token. If the token
// refuses pin, replace restores the former PIN, so that a wrong file does not stop the keys that
// are open.
func (v *visit) replace(ctx context.Context, pin []byte, flags uint) error {
	release, err := v.token.alone(ctx)
	if err != nil {
		return atToken(err)
	}
	defer release()
	if err := v.lib.Logout(v.session); err != nil && !is(err, p11.CKR_USER_NOT_LOGGED_IN) {
		return atToken(failure("C_Logout", err))
	}
	former := v.token.loggedOut()
	defer clear(former)
	if err = ctx.Err(); err == nil { // otherwise C_Logout has hung, and calls may use the token again
		err = v.try(pin, flags)
	}
	if err == nil || former == nil || bytes.Equal(former, pin) {
		return err
	}
	if lost := v.restore(former); lost != nil {
		return errors.Join(err, keypath.Errorf([]string{"pin_file"}, "nor can the PIN that was in the file before be used again, so that no key of the token signs: %w", lost))
	}
	return err
}

// restore logs in with the former PIN, except where a wrong PIN could lock the token: the PIN may
// have been changed there.
func (v *visit) restore(pin []byte) error {
	info, err := v.lib.GetTokenInfo(v.slot)
	if err != nil {
		return failure("C_GetTokenInfo", err)
	}
	if info.Flags&(p11.CKF_USER_PIN_LOCKED|p11.CKF_USER_PIN_FINAL_TRY) != 0 {
		return errors.New("one wrong PIN more would lock the token, so it is not tried; log in by hand once")
	}
	err = v.lib.Login(v.session, p11.CKU_USER, string(pin))
	if err != nil {
		if wrongPIN(err) {
			v.token.refuse(pin, v.file)
		}
		return failure("C_Login", err)
	}
	v.token.loggedIn(pin)
	return nil
}
