// SPDX-License-Identifier: Apache-2.0

package socket

import "testing"

func TestTrusted(t *testing.T) {
	t.Parallel()
	const own, owner = 1000, 1001
	for _, test := range []struct {
		uid, owner uint32
		want       bool
	}{
		{0, owner, true}, {own, owner, true}, {owner, owner, true},
		{1002, owner, false}, {1002, 0, false}, {overflowID, overflowID, false},
	} {
		if got := trusted(test.uid, own, test.owner); got != test.want {
			t.Errorf("uid %d in a folder of uid %d: %t", test.uid, test.owner, got)
		}
	}
}
