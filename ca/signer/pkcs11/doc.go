// SPDX-License-Identifier: Apache-2.0

// Package pkcs11 signs with a private key in a PKCS#11 token: a hardware module, a smart card,
// or software that speaks as one (PKCS #11 Cryptographic Token Interface Base Specification,
// version 2.40). The token's library is loaded into this process by way of cgo; without cgo
// this file is all there is of the package.
//
// What a process has logged in to a token it has for all of its sessions: whoever opens a
// session while another one is logged in needs no PIN, and none is looked at. So Modules,
// of which an application has one, keeps who is logged in to each token, and logs in anew when
// another PIN comes. A PIN that a token has refused is not tried again, as a token locks
// itself after a few; but once, if its file has been written anew.
//
// A call of a module may hang for ever. What it held others get when its caller has gone, or
// when they log in anew, so that it costs a thread and a session. How many do is bounded by the
// calls of a signer.Signer, and by maxOpenings.
//
// internal/app and the commands may import it.
package pkcs11
