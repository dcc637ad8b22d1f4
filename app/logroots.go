// SPDX-License-Identifier: Apache-2.0

package app

import (
	"bytes"
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/mayfly-ca/mayfly/ca"
	"github.com/mayfly-ca/mayfly/config"
)

// rootsTimeout bounds how long a log may take to list its roots.
const rootsTimeout = 10 * time.Second

// CheckLogRoots asks each remote log of cfg whether it accepts the root of every chain that signs
// or will sign, and returns the problems; nil where there are none. A log that does not accept a
// root refuses every certificate below it.
func CheckLogRoots(ctx context.Context, cfg *config.Server, set *ca.Set, now time.Time) (problems []error) {
	ctx, cancel := context.WithTimeout(ctx, rootsTimeout)
	defer cancel()
	found := make([][]error, len(cfg.CT.Logs))
	var wg sync.WaitGroup
	for i, entry := range cfg.CT.Logs {
		if entry.URL == "" || !(entry.RetireAt.IsZero() || now.Before(entry.RetireAt)) {
			continue
		}
		wg.Go(func() { found[i] = checkRoots(ctx, entry, set, now) })
	}
	wg.Wait()
	return slices.Concat(found...)
}

func checkRoots(ctx context.Context, entry config.CTLog, set *ca.Set, now time.Time) (problems []error) {
	log, _, err := newRemote(entry)
	if err != nil {
		return []error{err}
	}
	defer log.CloseIdleConnections()
	roots, err := log.Roots(ctx)
	if err != nil {
		return []error{err}
	}
	for _, m := range set.Members() {
		switch m.StateAt(now) {
		case ca.Staged, ca.Published, ca.Active:
		default:
			continue
		}
		root := m.Chain.DER[len(m.Chain.DER)-1]
		if !slices.ContainsFunc(roots, func(der []byte) bool { return bytes.Equal(der, root) }) {
			problems = append(problems, fmt.Errorf("the log %s does not accept the root of authority %q (%s), and will refuse what it signs: have the log's operator add it",
				entry.URL, m.ID, m.Chain.Certificates[len(m.Chain.Certificates)-1].Subject))
		}
	}
	return problems
}
