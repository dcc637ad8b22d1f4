// SPDX-License-Identifier: Apache-2.0

package main

import (
	"runtime"
	"testing"
)

// There is one thread more than by default, however often the CPU limit was looked at, and whatever was set before. The
// number belongs to the process, so this test is not parallel.
func TestOneMoreThread(t *testing.T) {
	t.Cleanup(runtime.SetDefaultGOMAXPROCS)
	runtime.SetDefaultGOMAXPROCS()
	want := runtime.GOMAXPROCS(0) + 1
	for _, before := range []int{1, want + 5} {
		runtime.GOMAXPROCS(before) // as after a change of the limit
		for range 3 {
			oneMore()
			if n := runtime.GOMAXPROCS(0); n != want {
				t.Errorf("%d threads; %d are expected", n, want)
			}
		}
	}
}
