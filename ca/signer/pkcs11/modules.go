//go:build cgo

// SPDX-License-Identifier: Apache-2.0

package pkcs11

import (
	"context"
	"crypto/rand"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"

	p11 "github.com/miekg/pkcs11"

	"github.com/mayfly-ca/mayfly/internal/keypath"
)

// Modules holds the PKCS#11 modules that this process has loaded, and the logins to their tokens.
// An application must have only one: two of them share a login, but a second one would not know
// of it. Modules is safe for concurrent use.
//
// A loaded module stays, and is not finalized: C_Finalize ends all sessions in the process, and
// its effect on calls under way is undefined (section 5.4); one of those may hang for ever. The
// end of the process ends its sessions too.
type Modules struct {
	// secret is the key of the HMACs of refused PINs.
	secret [32]byte

	mu      sync.Mutex // guards the fields below
	modules map[string]*module
}

// NewModules returns a Modules that has loaded nothing.
func NewModules() *Modules {
	m := &Modules{modules: map[string]*module{}}
	_, _ = rand.Read(m.secret[:]) // it never fails
	return m
}

// module is one library.
type module struct {
	path   string
	secret []byte
	lib    *p11.Ctx

	openings    chan struct{} // an element for each opening of a key under way
	starting    lock
	initialized atomic.Bool

	mu     sync.Mutex // guards the fields below; not held in calls
	tokens map[tokenID]*token
	seen   map[string]bool // labels of tokens that were present before
}

// load returns the module at path, and loads it if necessary.
func (m *Modules) load(path string) (*module, error) {
	path, err := modulePath(path)
	if err != nil {
		return nil, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if loaded := m.modules[path]; loaded != nil {
		return loaded, nil
	}
	lib := p11.New(path)
	if lib == nil {
		return nil, keypath.Errorf([]string{"module"},
			"%s is not a PKCS#11 module (it has no C_GetFunctionList), or cannot be loaded: it is for another machine, or a library that it needs is missing; run: ldd %[1]s", path)
	}
	loaded := &module{path: path, secret: m.secret[:], lib: lib, openings: make(chan struct{}, maxOpenings), starting: newLock(), tokens: map[tokenID]*token{}, seen: map[string]bool{}}
	m.modules[path] = loaded
	return loaded, nil
}

// modulePath returns the real path of a module without symbolic links: the dynamic linker too loads
// it only once.
func modulePath(path string) (string, error) {
	setting := []string{"module"}
	if path == "" {
		return "", keypath.Errorf(setting, "is missing; it should be the path of the token's PKCS#11 library, such as /usr/lib/softhsm/libsofthsm2.so")
	}
	absolute, err := filepath.Abs(path)
	if err != nil {
		return "", keypath.Errorf(setting, "%w", err)
	}
	resolved, err := filepath.EvalSymlinks(absolute)
	if err != nil {
		return "", keypath.Errorf(setting, "looking for the token's PKCS#11 library: %w; install it, or name the path of the one that is installed", err)
	}
	info, err := os.Stat(resolved)
	switch {
	case err != nil:
		return "", keypath.Errorf(setting, "looking for the token's PKCS#11 library: %w", err)
	case !info.Mode().IsRegular():
		return "", keypath.Errorf(setting, "%s is not a file; it should be the token's PKCS#11 library, which ends in .so", path)
	}
	return resolved, nil
}

// slots returns all slots. It initializes the module if necessary.
func (m *module) slots(ctx context.Context) ([]uint, error) {
	if err := m.starting.acquire(ctx); err != nil {
		return nil, fmt.Errorf("waiting for the module to be initialized: %w", err)
	}
	defer once(ctx, m.starting.release)()
	if !m.initialized.Load() {
		if err := m.initialize(); err != nil {
			return nil, err
		}
	}
	slots, err := m.lib.GetSlotList(false)
	if is(err, p11.CKR_CRYPTOKI_NOT_INITIALIZED) { // other code has finalized it
		if err := m.initialize(); err != nil {
			return nil, err
		}
		slots, err = m.lib.GetSlotList(false)
	}
	return slots, failure("C_GetSlotList", err)
}

// initialize makes the module use the locks of the operating system, as many threads call it.
// Another Modules, or other code in this process, may have initialized it before.
func (m *module) initialize() error {
	err := m.lib.Initialize(p11.InitializeWithFlags(p11.CKF_OS_LOCKING_OK))
	if err != nil && !is(err, p11.CKR_CRYPTOKI_ALREADY_INITIALIZED) {
		return failure("C_Initialize", err)
	}
	m.initialized.Store(true)
	return nil
}

// lock is a mutex with a wait that a context can end, as calls under it may hang.
type lock chan struct{}

func newLock() lock { return make(lock, 1) }

func (l lock) acquire(ctx context.Context) error {
	select {
	case l <- struct{}{}:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (l lock) release() { <-l }
