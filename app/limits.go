// SPDX-License-Identifier: Apache-2.0

package app

import (
	"errors"
	"fmt"
	"syscall"

	"github.com/mayfly-ca/mayfly/config"
	"github.com/mayfly-ca/mayfly/internal/keypath"
	"github.com/mayfly-ca/mayfly/server"
)

const (
	// ownDescriptors are reserved for what every server has: keys and signers, requests to issuers,
	// reloaded files, and the ops listener with its connections.
	ownDescriptors = 128
	// logDescriptors are reserved for each log: the connections to a remote one, or the files
	// of an embedded one, for writing and for reads over HTTP.
	logDescriptors = 128
	// mostConnections bounds what is derived, since an idle connection takes about 25 KiB, and more with TLS.
	mostConnections = 2048
)

// limits returns the configured limits, completed from the process's limit on file descriptors. An
// error has the path of its key.
func limits(cfg *config.Server) (server.Limits, error) {
	// The soft limit counts; Go has raised it to the hard one at start.
	var descriptors syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &descriptors); err != nil {
		return server.Limits{}, fmt.Errorf("reading the limit on file descriptors: %w", err)
	}
	return limitsWithin(cfg, int(min(descriptors.Cur, 1<<30)))
}

// limitsWithin is limits for a number of file descriptors.
func limitsWithin(cfg *config.Server, descriptors int) (server.Limits, error) {
	reserve := ownDescriptors + logDescriptors*len(cfg.CT.Logs)
	room := descriptors - reserve
	l := cfg.Limits
	sum := fmt.Sprintf("this process may have %d file descriptors (ulimit -n), of which %d are reserved (%d, and %d for each of %d logs)",
		descriptors, reserve, ownDescriptors, logDescriptors, len(cfg.CT.Logs))
	var errs []error
	if l.InFlight > room {
		errs = append(errs, keypath.Errorf([]string{"limits", "in_flight"}, "limits.in_flight is %d, and each request needs a connection; %s: permit %d or lower limits.in_flight",
			l.InFlight, sum, l.InFlight+reserve))
	}
	if l.Connections > room {
		errs = append(errs, keypath.Errorf([]string{"limits", "connections"}, "limits.connections is %d; %s: permit %d, or write at most %d",
			l.Connections, sum, l.Connections+reserve, max(room, 0)))
	}
	if l.Connections == 0 {
		l.Connections = max(min(room, mostConnections), l.InFlight)
	}
	// Connections leave half of the reserve free even if the other half was too small.
	l.Descriptors = descriptors - reserve/2
	return l, errors.Join(errs...)
}
