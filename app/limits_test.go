// SPDX-License-Identifier: Apache-2.0

package app

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/mayfly-ca/mayfly/config"
	"github.com/mayfly-ca/mayfly/internal/keypath"
	"github.com/mayfly-ca/mayfly/server"
)

func TestLimitsWithinTheDescriptors(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		limits      server.Limits
		logs        int
		descriptors int
		want        server.Limits // zero where a limit is wrong
		wrong       []string      // keys
	}{
		"1024, one log":        {server.Limits{InFlight: 512}, 1, 1024, server.Limits{Connections: 768, InFlight: 512, Descriptors: 896}, nil},
		"1024, two logs":       {server.Limits{InFlight: 512}, 2, 1024, server.Limits{Connections: 640, InFlight: 512, Descriptors: 832}, nil},
		"no log":               {server.Limits{InFlight: 512}, 0, 1024, server.Limits{Connections: 896, InFlight: 512, Descriptors: 960}, nil},
		"plenty":               {server.Limits{InFlight: 512}, 1, 1 << 20, server.Limits{Connections: 2048, InFlight: 512, Descriptors: 1<<20 - 128}, nil},
		"more requests":        {server.Limits{InFlight: 5000}, 1, 1 << 20, server.Limits{Connections: 5000, InFlight: 5000, Descriptors: 1<<20 - 128}, nil},
		"exactly as many":      {server.Limits{InFlight: 512, Connections: 768}, 1, 1024, server.Limits{Connections: 768, InFlight: 512, Descriptors: 896}, nil},
		"one too many":         {server.Limits{InFlight: 512, Connections: 769}, 1, 1024, server.Limits{}, []string{"limits.connections"}},
		"too few descriptors":  {server.Limits{InFlight: 512}, 1, 767, server.Limits{}, []string{"limits.in_flight"}},
		"fewer than reserved":  {server.Limits{InFlight: 1, Connections: 1}, 1, 64, server.Limits{}, []string{"limits.in_flight", "limits.connections"}},
		"few, and few allowed": {server.Limits{InFlight: 16}, 1, 280, server.Limits{Connections: 24, InFlight: 16, Descriptors: 152}, nil},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			cfg := &config.Server{Limits: tt.limits, CT: config.CT{Logs: make([]config.CTLog, tt.logs)}}
			cfg.Limits.Idle = time.Minute
			got, err := limitsWithin(cfg, tt.descriptors)
			var wrong []string
			for _, e := range keypath.All(err) {
				wrong = append(wrong, e.Path[0]+"."+e.Path[1])
			}
			if diff := cmp.Diff(tt.wrong, wrong); diff != "" {
				t.Errorf("mistakes (-want +got):\n%s", diff)
			}
			tt.want.Idle = time.Minute
			if diff := cmp.Diff(tt.want, got); err == nil && diff != "" {
				t.Errorf("limits (-want +got):\n%s", diff)
			}
		})
	}
}
