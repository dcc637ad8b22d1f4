// SPDX-License-Identifier: Apache-2.0

package load

import (
	"syscall"
	"testing"
	"time"
)

// A server ends with the process that started it, also if that runs no cleanup, as after a timeout.
func TestServersEndWithTheTest(t *testing.T) {
	t.Parallel()
	parent, child := newActor(t, "parent"), 0
	parent.receive(&child)
	must(0, syscall.Kill(parent.pid, syscall.SIGKILL))(t)
	ended := make(chan error, 1)
	go func() { ended <- parent.out.Decode(new(any)) }() // the output ends when no process has it
	select {
	case err := <-ended:
		if err == nil {
			t.Error("there is output after the end")
		}
	case <-time.After(stopLimit):
		_ = syscall.Kill(child, syscall.SIGKILL)
		t.Error("the process runs longer than the one that started it")
	}
}
