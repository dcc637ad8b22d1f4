// SPDX-License-Identifier: Apache-2.0

// Package clients holds no code, only a suite: it starts `mayfly serve` as an operator would,
// and beside it what a sigstore instance has besides its certificate authority (a timestamp
// authority, a Rekor v2 log, a TUF mirror, a container registry), and then lets unmodified
// clients at pinned versions sign and verify with them. It is a module of its own, so that no
// dependency of a client ever becomes one of mayfly's.
//
// Everything runs on loopback addresses. tools.sh installs the tools, run.sh does all. When the
// parent's dependencies move, `go mod tidy` in this folder follows them.
package clients
