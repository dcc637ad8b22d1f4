// SPDX-License-Identifier: Apache-2.0

// Package config reads mayfly's files. They are the server configuration (LoadServer), the issuer
// configuration (LoadIssuers), the CA set (LoadCASet), and the plan of a ceremony (LoadCeremony).
// The peer's identity file, unchanged, is a valid issuer configuration.
//
// The structs are the manual: each field states its default, the keys that it excludes and its
// effects. All files are read strictly, as trees of nodes with their line and column. An unknown
// key, a repeated key or a value of the wrong kind is a mistake. Every mistake of a file is
// reported at once, as FILE:LINE:COLUMN and one sentence. Constructors elsewhere report mistakes as
// key paths; WithPlaces maps each to its place in the file.
//
// Only cmd and app may import it, so that configuration stays there. It imports of this
// module only internal/keypath, opens only the file that the caller names, and dials nothing.
package config
