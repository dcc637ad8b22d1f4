// SPDX-License-Identifier: Apache-2.0

package load

import (
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"
	"golang.org/x/sys/unix"
)

// overload is a server on one core, and generators on the other.
type overload struct {
	*world
	server   *instance
	ops      string
	storms   [2]*actor
	duration time.Duration
	clients  int // of an open loop
	capacity float64
}

// newOverload starts a server with an addition to its configuration.
func newOverload(t testing.TB, seconds, clients int, addition string) *overload {
	t.Helper()
	o := &overload{world: newWorld(t, ""), clients: clients, duration: time.Duration(seconds) * time.Second}
	o.storms[0], o.storms[1] = newActor(t, "storm"), newActor(t, "storm")
	server, config, ready := o.configure(setting{curve: "p256", addition: addition})
	o.server, o.ops = server, strings.TrimSuffix(ready, "/readyz")
	o.start(server, filepath.Dir(config), must(binary())(t), "serve", "--config", config)
	o.await(server, ready)
	for _, pid := range []int{o.logPID, os.Getpid(), o.storms[0].pid, o.storms[1].pid} {
		pin(t, pid, 1)
	}
	pin(t, server.pid, 0)
	return o
}

// pin makes all threads of a process run on one core, and those that they create.
func pin(t testing.TB, pid, core int) {
	t.Helper()
	var set unix.CPUSet
	set.Set(core)
	for _, task := range must(os.ReadDir(fmt.Sprintf("/proc/%d/task", pid)))(t) {
		if err := unix.SchedSetaffinity(must(strconv.Atoi(task.Name()))(t), &set); err != nil {
			t.Fatal(err)
		}
	}
}

// rage runs a storm.
func (o *overload) rage(requests string, clients int, rate float64, duration time.Duration) (w weather) {
	o.t.Helper()
	o.storms[0].ask(storm{Address: o.server.http, Requests: requests, Clients: clients, Rate: rate, Duration: duration}, &w)
	return w
}

// goroutines reads a metric of the server.
func (o *overload) goroutines() (n int) {
	o.t.Helper()
	response := must(http.Get(o.ops + "/metrics"))(o.t)
	defer func() { _ = response.Body.Close() }()
	text := must(io.ReadAll(response.Body))(o.t)
	found := regexp.MustCompile(`(?m)^go_goroutines (\d+)`).FindSubmatch(text)
	if found == nil {
		o.t.Fatal("there is no go_goroutines")
	}
	return must(strconv.Atoi(string(found[1])))(o.t)
}

// recovery is the time until a server issues at nine tenths of its capacity again.
func (o *overload) recovery() time.Duration {
	o.t.Helper()
	begin, slice := time.Now(), o.duration/20
	for {
		at := time.Since(begin)
		if w := o.rage(o.requests[email], 64, 0, slice); w.rate() >= 0.9*o.capacity || at > answerLimit {
			return at
		}
	}
}

// row is a line of the table.
func (o *overload) report(name string, w weather, goodput float64) {
	o.t.Helper()
	h := hdrhistogram.Import(w.Latency)
	_, peak := memory(o.t, o.server.pid)
	o.t.Logf("%-34s %7.0f/s %5.0f %%  ≥ %2.0f %%  p50 %6.0f ms  p99 %6.0f ms  refused %7d  given up %6d  failed %4d  peak %4.0f MiB  recovery %5.2f s  goroutines %d",
		name, w.rate(), 100*w.rate()/o.capacity, 100*goodput, float64(h.ValueAtQuantile(50))/1000, float64(h.ValueAtQuantile(99))/1000,
		w.Refused, w.GivenUp, w.Failed, peak, o.recovery().Seconds(), o.goroutines())
	if w.Failure != "" {
		o.t.Logf("a failure: %s", w.Failure)
	}
}

// TestOverload measures a server that gets more than it can answer (make overload).
func TestOverload(t *testing.T) {
	if os.Getenv("MAYFLY_OVERLOAD") != "1" {
		t.Skip("make overload runs this test")
	}
	o := newOverload(t, variable("SECONDS", 60, positive)(t), variable("CLIENTS", 1500, positive)(t), "")
	o.rage(o.requests[email], 64, 0, o.duration/10)
	o.capacity = o.rage(o.requests[email], 64, 0, o.duration/4).rate()
	idle := o.goroutines()
	t.Logf("capacity with 64 clients: %.0f certificates/s; %d goroutines", o.capacity, idle)
	for _, times := range []float64{3, 10} {
		w := o.rage(o.requests[email], o.clients, times*o.capacity, o.duration)
		o.report(fmt.Sprintf("open loop, %.0f times capacity", times), w, map[float64]float64{3: 0.7, 10: 0.25}[times])
	}
	o.report("640 clients, Retry-After", o.rage(o.requests[email], 640, 0, o.duration), 0.9)
	o.report("5120 clients, Retry-After", o.rage(o.requests[email], 5120, 0, o.duration), 0.9)
}
