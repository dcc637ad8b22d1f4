// SPDX-License-Identifier: Apache-2.0

// Package pkcs11 signs with a private key in a PKCS#11 token: a hardware module, a smart card, or
// software with this interface (PKCS #11 Cryptographic Token Interface Base Specification, version
// 2.40). The token's library is loaded into this process through cgo; without cgo the package
// consists of this file only.
//
// A login to a token holds for all sessions of the process: while it lasts, a new session needs no
// PIN, and the module checks none. Modules, which an application has once, therefore tracks the
// login to each token, and logs in again when another PIN comes. It does not retry a PIN that a
// token has refused, as a token locks itself after a few wrong ones. The exception is one retry
// after the PIN's file has been written again.
//
// A call of a module may hang for ever. Other calls get what it held when its caller has gone, or
// when they log in again, so that it costs a thread and a session. The calls of a signer.Signer and
// maxOpenings bound the number of such calls.
//
// app and the commands may import it.
package pkcs11
