// SPDX-License-Identifier: Apache-2.0

package app

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/mayfly-ca/mayfly/ctlog"
	"github.com/mayfly-ca/mayfly/internal/breaker"
	"github.com/mayfly-ca/mayfly/server"
)

// ctCheck reports the state of each log. It never makes the server unready, not even with every log
// unavailable: only the next certificate closes a breaker, and an unready server issues none.
// Metrics cause the alerts.
func ctCheck(logs *ctlog.Logs) server.Check {
	return server.Check{
		Name: "certificate-transparency",
		Probe: func(context.Context) (string, error) {
			if logs == nil {
				return "disabled by configuration", nil
			}
			return ctHealth(logs.Status())
		},
	}
}

// ctHealth returns each log's state, and the last error of each log that has failed since it last
// gave an SCT.
func ctHealth(logs []ctlog.LogStatus) (detail string, err error) {
	var states []string
	for _, log := range logs {
		state := fmt.Sprintf("%s: breaker %s", log.Name, log.State)
		switch {
		case log.Failures == 1:
			state += ", 1 failure"
		case log.Failures > 1:
			state += fmt.Sprintf(", %d failures in a row", log.Failures)
		}
		if log.State == breaker.Open {
			state += ", probed in " + seconds(log.Probe)
		}
		if log.Rest > 0 {
			state += ", to be left alone for " + seconds(log.Rest)
		}
		states = append(states, state)
		if log.LastError != nil {
			err = errors.Join(err, fmt.Errorf("%s: %w", log.Name, log.LastError))
		}
	}
	return strings.Join(states, "; "), err
}

// seconds is d in whole seconds, rounded up.
func seconds(d time.Duration) string {
	return fmt.Sprintf("%d s", (d+time.Second-1)/time.Second)
}
