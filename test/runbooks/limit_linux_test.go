// SPDX-License-Identifier: Apache-2.0

package runbooks

import "golang.org/x/sys/unix"

// limitFiles makes each write of the server beyond a size fail, as on a full disk.
func (m *machine) limitFiles(size uint64) {
	m.t.Helper()
	limit := unix.Rlimit{Cur: size, Max: unix.RLIM_INFINITY}
	if err := unix.Prlimit(m.server.cmd.Process.Pid, unix.RLIMIT_FSIZE, &limit, nil); err != nil {
		m.t.Fatal(err)
	}
}
