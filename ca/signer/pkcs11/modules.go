//go:build cgo

// SPDX-License-Identifier: Apache-2.0

package pkcs11

import (
	"context"
	"crypto/rand"
	"fmt"
	"sync"

	p11 "github.com/miekg/pkcs11"

	"github.com/mayfly-ca/mayfly/ca/signer"
)

// maxOpenings bounds the openings that are under way in a module. Those that hang count until they
// return, so that a module that hangs costs a bounded number of threads.
const maxOpenings = 64

// Modules are the PKCS#11 modules that this process has loaded, and the logins to their tokens. An
// application must have only one, since a login belongs to the whole process. Modules is safe for
// concurrent use.
//
// A loaded module stays, and is not finalized: the effect of C_Finalize on calls under way is
// undefined (section 5.4), and one of those may hang for ever.
type Modules struct {
	secret [32]byte // the key of the HMACs of PINs

	mu     sync.Mutex // guards loaded
	loaded map[string]*module
}

// NewModules returns a Modules that has loaded nothing.
func NewModules() *Modules {
	m := &Modules{loaded: map[string]*module{}}
	_, _ = rand.Read(m.secret[:]) // it never fails
	return m
}

// module is one library.
type module struct {
	path     string
	lib      *p11.Ctx
	secret   []byte
	openings chan struct{} // an element for each opening of a key under way
	listing  chan struct{} // has an element while slots are listed

	mu     sync.Mutex        // guards tokens; not held in calls
	tokens map[string]*token // by label; each was present once
}

// load returns the module of cfg, and loads it if necessary.
func (m *Modules) load(cfg Config) (*module, error) {
	path, err := cfg.modulePath()
	if err != nil {
		return nil, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if loaded := m.loaded[path]; loaded != nil {
		return loaded, nil
	}
	lib := p11.New(path)
	if lib == nil {
		return nil, at("module", "%s is not a PKCS#11 module, or a library that it needs is missing; run: ldd %[1]s", path)
	}
	loaded := &module{path: path, lib: lib, secret: m.secret[:], openings: make(chan struct{}, maxOpenings), listing: make(chan struct{}, 1), tokens: map[string]*token{}}
	m.loaded[path] = loaded
	return loaded, nil
}

// slots returns all slots, after C_Initialize if needed. One caller at a time lists them: SoftHSM
// aborts the process if two threads find a new token.
func (m *module) slots(ctx context.Context) ([]uint, error) {
	release, err := acquire(ctx, m.listing)
	if err != nil {
		return nil, err
	}
	defer release()
	slots, err := m.lib.GetSlotList(false)
	if is(err, p11.CKR_CRYPTOKI_NOT_INITIALIZED) {
		err = m.lib.Initialize(p11.InitializeWithFlags(p11.CKF_OS_LOCKING_OK)) // many threads call the module
		if err != nil && !is(err, p11.CKR_CRYPTOKI_ALREADY_INITIALIZED) {
			return nil, failure("C_Initialize", err)
		}
		slots, err = m.lib.GetSlotList(false)
	}
	return slots, failure("C_GetSlotList", err)
}

// find returns the one token with a label, its slot, and its flags.
func (m *module) find(ctx context.Context, label string) (_ *token, slot, flags uint, err error) {
	slots, err := m.slots(ctx)
	if err != nil {
		return nil, 0, 0, at("module", "%s: %w", m.path, err)
	}
	var others []string
	var failed error
	found := 0
	for _, s := range slots {
		info, err := m.lib.GetTokenInfo(s)
		switch {
		case err != nil:
			failed = failure("C_GetTokenInfo", err)
		case info.Label == label:
			slot, flags, found = s, info.Flags, found+1
		case info.Flags&p11.CKF_TOKEN_INITIALIZED != 0:
			others = append(others, info.Label)
		}
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	known := m.tokens[label]
	switch {
	case found > 1:
		return nil, 0, 0, at("token", "%d tokens are labelled %q; give each a label of its own when it is initialized", found, label)
	case found == 1 && known == nil:
		known = &token{secret: m.secret, changing: make(chan struct{}, 1), refused: map[string]bool{}}
		m.tokens[label] = known
	case found == 0 && known == nil && failed == nil && len(others) > 0: // the label is wrong
		return nil, 0, 0, at("token", "no token is labelled %q; there are: %s", label, list(others))
	case found == 0:
		err := fmt.Errorf("no token is labelled %q now; insert it, or look at the connection to it", label)
		if failed != nil {
			err = fmt.Errorf("%w: a slot does not answer: %w", err, failed)
		}
		return nil, 0, 0, at("token", "%w", signer.Transient(err, 0))
	}
	return known, slot, flags, nil
}

// acquire puts an element into places, and returns a function that takes it out again. The end of
// ctx takes it out too, so that a call that hangs keeps no other call from its place.
func acquire(ctx context.Context, places chan struct{}) (release func(), err error) {
	select {
	case places <- struct{}{}:
	case <-ctx.Done():
		return nil, fmt.Errorf("waiting for other calls of the module: %w", ctx.Err())
	}
	give := sync.OnceFunc(func() { <-places })
	stop := context.AfterFunc(ctx, give)
	return func() {
		stop()
		give()
	}, nil
}
