// SPDX-License-Identifier: Apache-2.0

// Package pkcs11 signs with a private key in a PKCS#11 token: a hardware module, a smart card, or
// software with this interface (PKCS #11 Cryptographic Token Interface Base Specification, version
// 2.40; section numbers refer to it). The token's library is loaded into this process through cgo;
// without cgo the package consists of this file only.
//
// app and the commands may import it.
package pkcs11
