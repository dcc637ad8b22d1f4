//go:build cgo

// SPDX-License-Identifier: Apache-2.0

package pkcs11

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"fmt"
	"slices"
	"sync"
	"time"

	p11 "github.com/miekg/pkcs11"
	"golang.org/x/sync/semaphore"

	"github.com/mayfly-ca/mayfly/ca/signer"
	"github.com/mayfly-ca/mayfly/internal/keypath"
)

// tokenID identifies a token even if its slot changes.
type tokenID struct{ manufacturer, model, serial, label string }

// token is a token and the state of its login.
type token struct {
	lib    *p11.Ctx
	secret []byte
	// use is held by calls that use handles of private objects (shares). A logout, which voids
	// them, holds it with the weight of everybody.
	use *semaphore.Weighted
	// changing is held during a change of the login. A C_Login that hangs keeps it until it
	// returns, since the token's answer to the PIN is unknown.
	changing lock

	mu sync.Mutex // guards the fields below; not held in calls
	// shares are those that have neither ended nor been revoked.
	shares map[*share]struct{}
	// users counts the keys that are open or being opened; the PIN is kept while it is not 0.
	users int
	// pin is the PIN of the process's login; nil if this package has not logged in.
	pin []byte
	// doubted is set if the module reports a login that the token may have lost.
	doubted bool
	// logins counts the logins. Handles of private objects are void after the login in which they
	// were found (section 5.6, C_Logout). Their numbers may have been given to other objects.
	logins uint64
	// since is the first login after all sessions had ended: sessions of earlier ones are void.
	since uint64
	// refused holds the HMACs of the PINs that the token has refused and never accepted since.
	refused map[string]refusal
}

// refusal holds the file of the PIN. again is whether this is the second refusal.
type refusal struct {
	file  pinFile
	again bool
}

// pinFile is a file and the time of its last write.
type pinFile struct {
	path    string
	written time.Time
}

// find returns the one token with a label, and its slot.
func (m *module) find(ctx context.Context, label string) (*token, uint, error) {
	slots, err := m.slots(ctx)
	if err != nil {
		return nil, 0, keypath.Errorf([]string{"module"}, "%s: %w", m.path, err)
	}
	var (
		slot  uint
		found []p11.TokenInfo
		there tokensThere
	)
	for _, s := range slots {
		info, err := m.lib.GetTokenInfo(s)
		switch {
		case err != nil:
			there.silent++
			there.failed = failure("C_GetTokenInfo", err)
		case info.Flags&p11.CKF_TOKEN_INITIALIZED == 0:
			there.blank++
		case info.Label == label:
			slot, found = s, append(found, info)
		default:
			there.labels = append(there.labels, info.Label)
		}
	}
	switch len(found) {
	case 0:
		return nil, 0, m.missing(label, there)
	case 1:
		return m.token(found[0]), slot, nil
	default:
		return nil, 0, keypath.Errorf([]string{"token"}, "%d tokens are labelled %q, with the serial numbers %q and %q; give each a label of its own when it is initialized", len(found), label, found[0].SerialNumber, found[1].SerialNumber)
	}
}

// tokensThere describes the tokens with other labels.
type tokensThere struct {
	labels []string
	blank  int   // not initialized
	silent int   // slots that are empty or do not answer
	failed error // the last one's error
}

// missing returns the error for a missing token. The error is transient if the token was present
// before, or may be in a slot that does not answer. Otherwise its label is wrong.
func (m *module) missing(label string, there tokensThere) error {
	slices.Sort(there.labels)
	err := fmt.Errorf("no token is labelled %q", label)
	switch {
	case len(there.labels) > 0:
		err = fmt.Errorf("%w; there are: %s", err, list(there.labels))
	case there.failed == nil && there.blank == 0:
		err = fmt.Errorf("%w; %s shows no token at all", err, m.path)
	}
	if there.blank > 0 {
		err = fmt.Errorf("%w; %d not initialized yet, which pkcs11-tool --init-token --label, or softhsm2-util --init-token --free --label, gives a label", err, there.blank)
	}
	if there.failed != nil {
		err = fmt.Errorf("%w; %d slots tell of no token, the last one with: %w", err, there.silent, there.failed)
	}
	m.mu.Lock()
	seen := m.seen[label]
	m.mu.Unlock()
	if seen {
		err = fmt.Errorf("the token is not there any more; put it in, or look at the connection to it (pkcs11.token): %w", err)
	}
	if seen || there.failed != nil || len(there.labels)+there.blank == 0 {
		return keypath.Errorf([]string{"token"}, "%w", signer.Transient(err, 0))
	}
	return keypath.Errorf([]string{"token"}, "%w", err)
}

// token returns the known state of a token.
func (m *module) token(info p11.TokenInfo) *token {
	id := tokenID{info.ManufacturerID, info.Model, info.SerialNumber, info.Label}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.seen[info.Label] = true
	known := m.tokens[id]
	if known == nil {
		known = &token{lib: m.lib, secret: m.secret, use: semaphore.NewWeighted(everybody), changing: newLock(), shares: map[*share]struct{}{}, refused: map[string]refusal{}}
		m.tokens[id] = known
	}
	return known
}

// enter counts a user. The PIN is kept until the last user leaves.
func (t *token) enter() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.users++
}

func (t *token) leave() {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.users--; t.users == 0 {
		t.forget()
	}
}

// forget overwrites the PIN. Copies in the C library are freed, but not overwritten.
func (t *token) forget() {
	clear(t.pin)
	t.pin = nil
}

// loggedIn records a login with pin.
func (t *token) loggedIn(pin []byte) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.forget()
	t.pin, t.doubted = slices.Clone(pin), false
	delete(t.refused, t.mac(pin))
	t.logins++
}

// loggedOut voids all handles, and returns the former PIN; nil if none is known.
func (t *token) loggedOut() (pin []byte) {
	t.mu.Lock()
	defer t.mu.Unlock()
	pin = slices.Clone(t.pin)
	t.forget()
	t.logins++
	return pin
}

// sessionsEnded records that there is no login any more, so that all sessions of earlier logins
// have ended.
func (t *token) sessionsEnded() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.since = t.logins + 1
}

// keepsSessionsOf reports whether sessions of a login are still valid.
func (t *token) keepsSessionsOf(login uint64) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return login >= t.since
}

// trusts reports whether the process has logged in with pin, as far as is known, and whether that
// is in doubt.
func (t *token) trusts(pin []byte) (trusted, doubted bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.pin != nil && hmac.Equal(t.pin, pin), t.doubted
}

// doubt makes the next opening of a key check the login, unless there has been another login since
// the doubt arose.
func (t *token) doubt(login uint64) { t.setDoubted(login, true) }

// believe ends the doubt.
func (t *token) believe(login uint64) { t.setDoubted(login, false) }

func (t *token) setDoubted(login uint64, doubted bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.logins == login {
		t.doubted = doubted
	}
}

// login returns the number of the current login.
func (t *token) login() uint64 {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.logins
}

func (t *token) mac(pin []byte) string {
	h := hmac.New(sha256.New, t.secret)
	h.Write(pin)
	return string(h.Sum(nil))
}

// refuse records that the token has refused pin.
func (t *token) refuse(pin []byte, file pinFile) {
	t.mu.Lock()
	defer t.mu.Unlock()
	mac := t.mac(pin)
	_, again := t.refused[mac]
	t.refused[mac] = refusal{file, again}
}

// hasRefused reports whether pin must not be tried: the token has refused it, and its file was not
// written since. The writer may have set the token to this PIN, but may also be a program that
// writes every minute. So pin is tried once more, and never a third time.
func (t *token) hasRefused(pin []byte, file pinFile) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	r, found := t.refused[t.mac(pin)]
	rewritten := file.path == r.file.path && !file.written.Equal(r.file.written)
	return found && (r.again || !rewritten)
}
