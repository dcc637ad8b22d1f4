// SPDX-License-Identifier: Apache-2.0

package app

import "time"

// Quick looks for changed files every few milliseconds.
func (o Options) Quick() Options {
	o.interval = 10 * time.Millisecond
	return o
}
