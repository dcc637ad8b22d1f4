// SPDX-License-Identifier: Apache-2.0

package app

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"slices"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/errgroup"

	"github.com/mayfly-ca/mayfly/ca"
	"github.com/mayfly-ca/mayfly/ca/set"
	"github.com/mayfly-ca/mayfly/ca/signer"
	"github.com/mayfly-ca/mayfly/ca/signer/socket"
	"github.com/mayfly-ca/mayfly/config"
	"github.com/mayfly-ca/mayfly/server"
)

// SignerOptions are the inputs of a process that only signs.
type SignerOptions struct {
	// Set is the CA set. The process has its keys.
	Set string
	// Socket is the Unix socket on which the process accepts requests.
	Socket string
	// AllowUIDs are the users that may send requests; none for the process's own user.
	AllowUIDs []uint32
	// Ops is the address of metrics and readiness; "" for none.
	Ops string
	// WithoutCT permits certificates that no log has.
	WithoutCT bool
	// LogOutput receives the log; nil for none. Log configures it.
	LogOutput io.Writer
	Log       config.Log
	// Version is the version in the metric mayfly_build_info.
	Version string
	// Supervisor is the service manager; its sockets have the names signer and ops.
	Supervisor Supervisor
	// Now is the clock; nil for time.Now.
	Now func() time.Time
}

// signing is a process that holds the keys of a CA set and signs for a server of this machine,
// which an attacker may control.
type signing struct {
	authorities *caSet
	policy      *ca.LeafPolicy
}

// skew is the largest tolerated difference between the clocks of a server and this process where
// authorities change: for that long both authorities sign.
const skew = time.Minute

// Sign signs for servers until ctx ends.
func Sign(ctx context.Context, options SignerOptions) error {
	logger, callers := newLoggers(options.Log, options.LogOutput)
	registry := newRegistry(options.Version)
	policy, err := ca.NewLeafPolicy(options.WithoutCT)
	if err != nil {
		return err
	}
	s := &signing{policy: policy}
	if s.authorities, err = newCASet(ctx, &config.Server{CA: config.CA{Set: options.Set}}, Options{Now: options.Now}, logger, callers, registry); err != nil {
		return err
	}
	front, ops, err := s.listen(options, refusals(registry), callers)
	if err != nil {
		return errors.Join(err, s.authorities.ring.Close())
	}
	if len(options.AllowUIDs) == 0 || slices.Contains(options.AllowUIDs, uint32(os.Geteuid())) {
		logger.LogAttrs(ctx, slog.LevelWarn, "servers that run as the user of this process may use its keys: an intruder in such a server can also read them; run mayfly signer as another user, and name the server's user with --allow-user")
	}
	logger.LogAttrs(ctx, slog.LevelInfo, "signing", slog.String("socket", options.Socket), slog.String("ops", options.Ops))
	life := supervised{logger: logger, alive: answers(ops), status: func(context.Context) string { return "signing" }, shutdown: shutdownTimeout}
	err = options.Supervisor.run(ctx, life, []func(context.Context){s.authorities.run}, func(ctx context.Context) error {
		group, ctx := errgroup.WithContext(ctx)
		group.Go(func() error { return front.Serve(ctx) })
		if ops != nil {
			checks := append(s.authorities.checks(ca.DefaultLifetime), server.Check{Name: "socket", Critical: true, Runbook: "docs/signers.md#the-signing-process-refuses", Probe: func(ctx context.Context) (string, error) {
				return "servers can connect", front.Check(ctx)
			}})
			group.Go(func() error {
				state := func(state *server.State) {
					state.Release = options.Version
					s.authorities.state(state)
				}
				return server.ServeOps(ctx, server.Config{Checks: checks, State: state, Registry: registry, Logger: callers}, ops)
			})
		}
		return group.Wait()
	})
	err = errors.Join(err, s.authorities.ring.Close())
	logger.LogAttrs(context.WithoutCancel(ctx), slog.LevelInfo, "stopped")
	return err
}

// listen creates the socket, and listens on the ops address if it is set; otherwise ops is nil.
func (s *signing) listen(options SignerOptions, refused func(socket.Refusal), logger *slog.Logger) (front *socket.Server, ops net.Listener, err error) {
	passed, err := options.Supervisor.listeners("signer", "ops")
	if err != nil {
		return nil, nil, err
	}
	config := socket.ServerConfig{Path: options.Socket, AllowUIDs: options.AllowUIDs, Sign: s.sign, Refused: refused, Logger: logger, Listener: passed["signer"]}
	if front, err = socket.NewServer(config); err != nil {
		return nil, nil, err
	}
	if ops = passed["ops"]; ops != nil && !listensOn(ops, options.Ops) {
		return nil, nil, fmt.Errorf("--ops is %q, and the socket ops of the service manager listens on %s; write one address in both", options.Ops, ops.Addr())
	}
	if options.Ops != "" && ops == nil {
		if ops, err = net.Listen("tcp", options.Ops); err != nil {
			return nil, nil, fmt.Errorf("listening for metrics and readiness (--ops %s): %w", options.Ops, err)
		}
	}
	if err = front.Listen(); err != nil && ops != nil {
		err = errors.Join(err, ops.Close())
	}
	return front, ops, err
}

// refusals counts the refusals of the socket. Every series exists from the start, so that a rate
// includes the first refusal.
func refusals(registry prometheus.Registerer) func(socket.Refusal) {
	refused := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "mayfly_signer_refused_total",
		Help: "What mayfly signer refused: connection (of a user that is not allowed, or one too many), malformed (not a request of this release), not_permitted (not a current certificate of the profile) or unknown_key.",
	}, []string{"refusal"})
	registry.MustRegister(refused)
	for _, r := range socket.Refusals() {
		refused.WithLabelValues(string(r))
	}
	return func(r socket.Refusal) { refused.WithLabelValues(string(r)).Inc() }
}

// sign signs message with the key of the set that has the ID given, if the policy permits it: a
// certificate only in the name of the authority that signs now.
func (s *signing) sign(ctx context.Context, key [sha256.Size]byte, message []byte) ([]byte, error) {
	now, current := s.authorities.now(), s.authorities.current.Load()
	members := current.Members()
	i := slices.IndexFunc(members, func(m set.Member) bool {
		id, err := socket.KeyID(m.Chain.Certificates[0].PublicKey)
		return err == nil && id == key && m.Authority != nil
	})
	if i < 0 {
		return nil, fmt.Errorf("%w: generation %d of the CA set names no such key that is still in use; has the server another set?", socket.ErrUnknownKey, current.Generation())
	}
	m := members[i]
	if string(message) != signer.SelfTestMessage && !activeAbout(m, now) {
		return nil, fmt.Errorf("%w: authority %q is %s at %s, and only the active one signs certificates", signer.ErrNotPermitted, m.ID, m.StateAt(now), now.UTC().Format(time.RFC3339))
	}
	if err := s.policy.Check(m.Chain, message, now); err != nil {
		return nil, fmt.Errorf("%w: %w", signer.ErrNotPermitted, err)
	}
	return m.Authority.Signer().Sign(ctx, message)
}

// activeAbout reports whether m signs at now, within the skew of a server's clock. A compromised
// key signs nothing more, whatever the clocks show.
func activeAbout(m set.Member, now time.Time) bool {
	if m.StateAt(now) == set.Compromised {
		return false
	}
	return m.StateAt(now) == set.Active || m.StateAt(now.Add(skew)) == set.Active || m.StateAt(now.Add(-skew)) == set.Active
}
