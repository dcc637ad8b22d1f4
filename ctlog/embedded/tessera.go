// SPDX-License-Identifier: Apache-2.0

package embedded

import (
	"log/slog"

	"k8s.io/klog/v2"
)

// RouteTesseraLogs sends what Tessera has to say, for the whole process, to logger instead of
// to the standard error. It says little that this package does not say better: a logger of
// level Warn will do. Package main calls it, once, before the first log is opened.
func RouteTesseraLogs(logger *slog.Logger) { klog.SetSlogLogger(logger) }
