//go:build cgo

// SPDX-License-Identifier: Apache-2.0

package pkcs11

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"fmt"
	"time"

	p11 "github.com/miekg/pkcs11"

	"github.com/mayfly-ca/mayfly/ca/signer"
	"github.com/mayfly-ca/mayfly/certs"
	"github.com/mayfly-ca/mayfly/internal/keypath"
)

const (
	// maxOpenings bounds the openings that are under way in a module. Those that hang count until
	// they return, so that a module that hangs costs a bounded number of threads.
	maxOpenings = 64
	// settle bounds the time in which an opening must return its error after ctx has ended.
	settle = 50 * time.Millisecond
)

// Open opens a key in a token: it loads the module, logs in and looks the key up. Errors have
// the key paths ["module"], ["token"], ["pin_file"] and ["label"]. Calls of a module cannot be
// interrupted; Open abandons a call that hangs when ctx ends.
func (m *Modules) Open(ctx context.Context, cfg Config) (signer.Key, error) {
	module, err := m.moduleOf(cfg)
	if err != nil {
		return nil, err
	}
	select {
	case module.openings <- struct{}{}:
	case <-ctx.Done():
		return nil, keypath.Errorf([]string{"module"}, "waiting for one of %d openings of keys to end, since calls of %s hang: %w", maxOpenings, module.path, ctx.Err())
	}
	type answer struct {
		key signer.Key
		err error
	}
	answers, gone := make(chan answer), make(chan struct{})
	defer close(gone)
	go func() {
		defer func() { <-module.openings }()
		var a answer
		a.key, a.err = module.open(ctx, cfg)
		select {
		case answers <- a:
		case <-gone:
			if a.err == nil {
				_ = a.key.Close() // no caller has signed with it
			}
		}
	}()
	select {
	case a := <-answers:
		return a.key, a.err
	case <-ctx.Done():
	}
	select {
	case a := <-answers:
		return a.key, a.err
	case <-time.After(settle):
		return nil, keypath.Errorf([]string{"module"}, "a call of %s hangs while the key is opened: %w", module.path, ctx.Err())
	}
}

func (m *module) open(ctx context.Context, cfg Config) (_ signer.Key, err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("opening the key: panic: %v", p)
		}
	}()
	v, err := m.visit(ctx, cfg, 0)
	if err != nil {
		return nil, err
	}
	k, err := v.open(ctx)
	if err != nil {
		v.end()
		return nil, err
	}
	return k, nil
}

// open returns the configured key, which takes over the visit.
func (v *visit) open(ctx context.Context) (*key, error) {
	share, err := v.token.share(ctx)
	if err != nil {
		return nil, atToken(err)
	}
	handle, public, err := v.find()
	if revoked := share.end(); revoked != nil || share.login != v.login {
		return nil, atToken(signer.Transient(errAnotherLogin, 0))
	}
	if err != nil {
		return nil, err
	}
	how, err := schemeOf(public)
	if err != nil {
		return nil, atLabel("the key %q: %w", v.cfg.Label, err)
	}
	return &key{visit: *v, how: how, handle: handle, busy: make(chan struct{}, maxSessions), finding: newLock()}, nil
}

// scheme is the way a key signs.
type scheme struct {
	public    crypto.PublicKey
	algorithm certs.SignatureAlgorithm
	mechanism uint
}

func schemeOf(public crypto.PublicKey) (scheme, error) {
	algorithm, err := certs.SignatureAlgorithmFor(public)
	if _, ec := public.(*ecdsa.PublicKey); ec {
		return scheme{public, algorithm, p11.CKM_ECDSA}, err
	}
	return scheme{public, algorithm, p11.CKM_RSA_PKCS}, err
}
