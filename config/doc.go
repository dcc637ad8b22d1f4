// SPDX-License-Identifier: Apache-2.0

// Package config reads mayfly's files: the server configuration (LoadServer), the issuer
// configuration (LoadIssuers), which the peer's identity file is too, unchanged, the CA set
// (LoadCASet), and the plan of a ceremony (LoadCeremony).
//
// The structs are the manual: each field says its default, what it excludes and what
// follows from it. All files are read strictly, as trees of nodes that know their line and
// column: an unknown key, a key that stands twice or a value of the wrong kind is a mistake,
// and every mistake of a file is reported at once, as FILE:LINE:COLUMN and one sentence.
// What a constructor elsewhere finds wrong comes back as a key path; Explain maps it to its
// place in the file.
//
// Only cmd and internal/app may import it: configuration ends there. It imports nothing of
// ours but internal/keypath, opens no file but the one that it is told to read, and dials
// nothing.
package config
