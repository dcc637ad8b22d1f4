// SPDX-License-Identifier: Apache-2.0

package embedded

import (
	"testing"
	"time"

	"github.com/mayfly-ca/mayfly/ctlog"
)

func TestSubmit(t *testing.T) {
	t.Parallel()
	a, cfg := newAuthority(t), newConfig(t)
	l := open(t, cfg)
	key, err := ctlog.ParsePublicKey(l.PublicKey())
	if err != nil {
		t.Fatal(err)
	}
	for i := range 3 {
		sub := a.submission(t)
		sct, err := l.Submit(t.Context(), sub)
		if err != nil {
			t.Fatal(err)
		}
		if err := key.Verify(sct, sub, time.Now()); err != nil {
			t.Error(err)
		}
		t.Logf("%d: %x", i, sct.Extensions)
	}
	if err := l.Ready(); err != nil {
		t.Error(err)
	}
	shutdown(t, l)
	if n, err := Fsck(t.Context(), cfg); err != nil || n != 3 {
		t.Errorf("fsck: %d entries, %v", n, err)
	}
	l = open(t, cfg)
	submit(t, l, a, 600)
	shutdown(t, l)
	if n, err := Fsck(t.Context(), cfg); err != nil || n != 603 {
		t.Errorf("fsck: %d entries, %v", n, err)
	}
}
