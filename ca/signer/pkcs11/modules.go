//go:build cgo

// SPDX-License-Identifier: Apache-2.0

package pkcs11

import (
	"context"
	"errors"
	"fmt"
	"hash/maphash"
	"path/filepath"
	"sync"

	p11 "github.com/miekg/pkcs11"

	"github.com/mayfly-ca/mayfly/ca/signer"
	"github.com/mayfly-ca/mayfly/internal/files"
	"github.com/mayfly-ca/mayfly/internal/keypath"
)

// Config names a private key in a token.
type Config signer.PKCS11

// Check finds mistakes in cfg without a call to the module. Warnings are about a badly protected
// PIN. Errors and warnings have key paths, and hold no part of the PIN.
func Check(cfg Config) (warnings []error, err error) {
	_, pathErr := cfg.modulePath()
	_, warning, pinErr := cfg.readPIN()
	if warning != nil {
		warnings = []error{at("pin_file", "%w", warning)}
	}
	return warnings, errors.Join(pathErr, pinErr)
}

// modulePath returns the module's path without symbolic links: the dynamic linker too loads a
// library only once.
func (cfg Config) modulePath() (string, error) {
	path, err := filepath.EvalSymlinks(cfg.Module)
	if err == nil {
		path, err = filepath.Abs(path)
	}
	if err != nil {
		return "", at("module", "looking for the token's PKCS#11 library: %w; install it, or name the path of the one that is installed", err)
	}
	return path, nil
}

// readPIN returns the PIN, nil if no file is named, and a warning if too many users can read the
// file.
func (cfg Config) readPIN() (pin []byte, warning, err error) {
	if cfg.PINFile == "" {
		return nil, nil, nil
	}
	pin, warning, err = files.ReadSecretLine(cfg.PINFile, "the user PIN of the token")
	return pin, warning, keypath.Prefix(err, "pin_file")
}

// at returns an error about a key of the configuration.
func at(key, format string, args ...any) error {
	return keypath.Errorf([]string{key}, format, args...)
}

// Modules are the PKCS#11 modules that this process has loaded, and the logins to their tokens. An
// application must have only one, since a login belongs to the whole process. Modules is safe for
// concurrent use.
//
// A loaded module stays, and is not finalized: the effect of C_Finalize on calls under way is
// undefined (section 5.4), and one of those may hang for ever.
type Modules struct {
	mu     sync.Mutex // guards loaded
	loaded map[string]*module
}

// NewModules returns a Modules that has loaded nothing.
func NewModules() *Modules { return &Modules{loaded: map[string]*module{}} }

// module is one library.
type module struct {
	path    string
	lib     *p11.Ctx
	listing chan struct{} // has an element while slots are listed

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
	m.loaded[path] = &module{path: path, lib: lib, listing: make(chan struct{}, 1), tokens: map[string]*token{}}
	return m.loaded[path], nil
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
		known = &token{seed: maphash.MakeSeed(), changing: make(chan struct{}, 1), refused: map[uint64]bool{}}
		m.tokens[label] = known
	case found == 0 && known == nil && failed == nil && len(others) > 0: // the label is wrong
		return nil, 0, 0, at("token", "no token is labelled %q; there are: %s", label, list(others))
	case found == 0:
		gone := fmt.Errorf("no token is labelled %q now; insert it, or look at the connection to it", label)
		return nil, 0, 0, at("token", "%w", signer.Transient(errors.Join(gone, failed), 0))
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
	context.AfterFunc(ctx, give)
	return give, nil
}
