// SPDX-License-Identifier: Apache-2.0

package embedded

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestLockHeld(t *testing.T) {
	t.Parallel()
	a, cfg := newAuthority(t), newConfig(t)
	l := open(t, cfg)
	submit(t, l, a, 3)
	waitForCheckpoint(t, l, 3)

	check := func(cfg Config, path string) {
		t.Helper()
		_, err := Open(t.Context(), cfg)
		var locked *LockedError
		if !errors.As(err, &locked) || locked.Path != path || locked.Holder.PID != os.Getpid() || locked.Holder.Host == "" || locked.Holder.Since.IsZero() {
			t.Fatalf("got %v, want a *LockedError for %s that names this process", err, path)
		}
		if want := fmt.Sprintf("is in use by process %d on host %s", os.Getpid(), locked.Holder.Host); !strings.Contains(err.Error(), want) {
			t.Errorf("%q does not say %q", err, want)
		}
	}
	check(cfg, cfg.Dir)
	// Two copies of a directory with one guard would be two writers of one log.
	other := cfg
	other.Dir = filepath.Join(t.TempDir(), "copy")
	copyDir(t, cfg.Dir, other.Dir)
	check(other, cfg.Guard)

	in, err := Inspect(t.Context(), cfg)
	if err != nil || in.Holder == nil || in.Holder.PID != os.Getpid() || in.Err != nil {
		t.Errorf("inspecting: %+v, %v", in, err)
	}
	shutdown(t, l)
	if in, err := Inspect(t.Context(), cfg); err != nil || in.Holder != nil {
		t.Errorf("inspecting: %+v, %v", in, err)
	}
	shutdown(t, open(t, cfg))

	// A writer that cannot be found out is not the same as none.
	lock := cfg.lockFiles()[0].path
	if err := errors.Join(os.Remove(lock), os.Mkdir(lock, 0o755)); err != nil {
		t.Fatal(err)
	}
	if in, err := Inspect(t.Context(), cfg); err == nil {
		t.Errorf("inspecting: %+v", in)
	}
	if unknown := (&LockedError{Path: cfg.Dir}).Error(); strings.Contains(unknown, " 0 ") {
		t.Error(unknown)
	}
}
