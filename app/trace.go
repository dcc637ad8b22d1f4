// SPDX-License-Identifier: Apache-2.0

package app

import (
	"context"

	"github.com/mayfly-ca/mayfly/internal/keypath"
	"github.com/mayfly-ca/mayfly/server/trace"
)

// openTracer opens the tracer of `trace`; there is none without that key, and for a check. Its errors
// have key paths.
func (a *App) openTracer(ctx context.Context) (tracer *trace.Tracer, err error) {
	cfg := a.Config.Trace
	if cfg == nil {
		return nil, nil
	}
	var headers map[string]string
	if cfg.HeadersFile != "" {
		var warning error
		if headers, warning, err = trace.ReadHeaders(cfg.HeadersFile); err != nil {
			return nil, keypath.Errorf([]string{"trace", "headers_file"}, "reading the headers for the collector: %w", err)
		}
		a.warn(keypath.Split(a.Config.WithPlaces(keypath.Prefix(warning, "trace", "headers_file")))...)
	}
	if a.options.report != nil {
		return nil, nil
	}
	a.tracer, err = trace.New(ctx, *cfg, headers, trace.Options{Version: a.options.Version, Registerer: a.registry, Logger: a.callers})
	return a.tracer, err
}
