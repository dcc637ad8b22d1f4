// SPDX-License-Identifier: Apache-2.0

//go:build !linux

package clock

import "time"

var began = time.Now()

func sinceBoot() time.Duration { return time.Since(began) }

// Kernel is not known here.
func Kernel() string { return Unknown }
