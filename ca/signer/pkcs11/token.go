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

// tokenID is what a token keeps when its slot changes.
type tokenID struct{ manufacturer, model, serial, label string }

// token is a token, and who is logged in to it.
type token struct {
	lib    *p11.Ctx
	secret []byte
	// use is held by those who use handles of private objects (shares), and with the weight of
	// everybody by who logs out, which voids them.
	use *semaphore.Weighted
	// changing is held by who changes the login. A C_Login that hangs keeps it until it
	// returns, since nobody knows what the token makes of the PIN.
	changing lock

	mu sync.Mutex // guards what follows; not held in calls
	// shares are those that have neither ended nor been revoked.
	shares map[*share]struct{}
	// users is how many keys are open or being opened; the PIN is kept until there are none.
	users int
	// pin is the one with which the process has logged in; nil if this package has not.
	pin []byte
	// doubted is a login that the module believes in and the token does not seem to.
	doubted bool
	// logins counts: handles of private objects are void after the login in which they were
	// found (section 5.6, C_Logout), and their numbers may have been given to others.
	logins uint64
	// since is the first login after all sessions had ended: those of earlier ones are void.
	since uint64
	// refused are the PINs that the token has refused and never taken since, by their HMACs.
	refused map[string]refusal
}

// refusal is the file that the PIN was in. again is whether it was the second time.
type refusal struct {
	file  pinFile
	again bool
}

// pinFile is a file and when it was written.
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

// tokensThere are the tokens that are not the one that is wanted.
type tokensThere struct {
	labels []string
	blank  int   // not initialized
	silent int   // slots that are empty or do not answer
	failed error // of the last one of these
}

// missing is the error of a token that is not there. It may come back if it was there before,
// or if it may be the one in a slot that does not answer; else its label is wrong.
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

// token returns what is known of a token.
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

// enter counts a user. The PIN is kept until the last one leaves.
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

// forget overwrites the PIN. Copies that the C library got are freed, and not overwritten.
func (t *token) forget() {
	clear(t.pin)
	t.pin = nil
}

// loggedIn notes with which PIN.
func (t *token) loggedIn(pin []byte) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.forget()
	t.pin, t.doubted = slices.Clone(pin), false
	delete(t.refused, t.mac(pin))
	t.logins++
}

// loggedOut voids all handles, and returns the PIN that was good so far; nil if none is known.
func (t *token) loggedOut() (pin []byte) {
	t.mu.Lock()
	defer t.mu.Unlock()
	pin = slices.Clone(t.pin)
	t.forget()
	t.logins++
	return pin
}

// sessionsEnded notes that nobody is logged in any more, so that there is no session left of
// those who were.
func (t *token) sessionsEnded() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.since = t.logins + 1
}

// keepsSessionsOf tells whether sessions of a login are still good.
func (t *token) keepsSessionsOf(login uint64) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return login >= t.since
}

// trusts tells whether the process has logged in with pin, as far as is known, and whether that
// is in doubt.
func (t *token) trusts(pin []byte) (trusted, doubted bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.pin != nil && hmac.Equal(t.pin, pin), t.doubted
}

// doubt has the next one who opens a key find out whether the login is good, if nobody has
// logged in since the one in which the doubt arose.
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

// login returns the number of the login that is valid now.
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

// refuse remembers that the token has refused pin.
func (t *token) refuse(pin []byte, file pinFile) {
	t.mu.Lock()
	defer t.mu.Unlock()
	mac := t.mac(pin)
	_, again := t.refused[mac]
	t.refused[mac] = refusal{file, again}
}

// hasRefused tells whether pin is not to be tried: the token has refused it, and its file was
// not written since. Who writes it may have set the token to this PIN, but it may also be a
// program that does so every minute, so that it is tried once more and never a third time.
func (t *token) hasRefused(pin []byte, file pinFile) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	r, found := t.refused[t.mac(pin)]
	rewritten := file.path == r.file.path && !file.written.Equal(r.file.written)
	return found && (r.again || !rewritten)
}
