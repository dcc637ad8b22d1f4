// SPDX-License-Identifier: Apache-2.0

//go:build !linux

package clock

import "time"

func steadyClock() func() time.Duration { return monotonic() }

// Kernel is not known here.
func Kernel() string { return Unknown }
