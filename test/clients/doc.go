// SPDX-License-Identifier: Apache-2.0

// Package clients contains no code, only a suite. It starts `mayfly serve` as an operator would,
// and the other services of a sigstore instance (a timestamp authority, a Rekor v2 log, a TUF
// mirror, a container registry). Then unmodified clients at pinned versions sign and verify with
// them. It is a separate module, so that no dependency of a client ever becomes one of mayfly's.
//
// Everything runs on loopback addresses. tools.sh installs the tools, run.sh does everything. When
// the parent's dependencies change, `go mod tidy` in this folder updates them here.
package clients
