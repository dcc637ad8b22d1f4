// SPDX-License-Identifier: Apache-2.0

//go:build !linux

package embedded

import "math"

// statFilesystem returns no details: an embedded log for production runs on Linux.
func statFilesystem(string) (filesystem, error) { return filesystem{free: math.MaxUint64}, nil }
