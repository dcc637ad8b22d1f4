// SPDX-License-Identifier: Apache-2.0

package embedded

import (
	"log/slog"

	"k8s.io/klog/v2"
)

// RouteTesseraLogs sends Tessera's log lines, for the whole process, to logger instead of
// standard error. This package reports most of it better: level Warn suffices for logger.
// Package main calls it, once, before the first log is opened.
func RouteTesseraLogs(logger *slog.Logger) { klog.SetSlogLogger(logger) }
