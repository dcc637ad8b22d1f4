// SPDX-License-Identifier: Apache-2.0

//go:build !linux

package runbooks

// limitFiles skips the test: only Linux limits another process.
func (m *machine) limitFiles(uint64) { m.t.Skip("this system cannot limit the files of a process") }
