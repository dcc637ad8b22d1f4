// SPDX-License-Identifier: Apache-2.0

package app

import (
	"context"
	"net/http"

	"github.com/mayfly-ca/mayfly/ctlog/embedded"
	"github.com/mayfly-ca/mayfly/ctlog/reader"
	"github.com/mayfly-ca/mayfly/server"
	"github.com/mayfly-ca/mayfly/server/page"
)

// page returns the page of the ops listener.
func (a *App) page() http.Handler {
	cfg := page.Config{
		State:  func(ctx context.Context) server.State { return a.server.State(ctx) }, // the server is created after the page
		Chains: a.live.TrustBundle,
	}
	for _, setting := range a.Config.Settings() {
		cfg.Settings = append(cfg.Settings, page.Setting(setting))
	}
	for _, log := range a.embedded {
		cfg.Logs = append(cfg.Logs, page.Log{Name: log.Name(), ID: log.Status().LogID, Open: func(context.Context) (*reader.Source, error) {
			return embedded.Source(embedded.Config{Dir: log.Dir()})
		}})
	}
	return page.New(cfg)
}
