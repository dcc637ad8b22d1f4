// SPDX-License-Identifier: Apache-2.0

package testworld

import (
	"os/exec"
	"syscall"
)

// EndWithParent makes the kernel kill the process when this one ends in any way: no cleanup runs after a
// test's timeout.
func EndWithParent(cmd *exec.Cmd) {
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
}
