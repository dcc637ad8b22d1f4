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
	cost     float64       // CPU time of a certificate at capacity, in µs
	used     time.Duration // of the server in the last storm
	others   time.Duration // of the generators and the log, which have the other core, in the last storm
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
	others := func() time.Duration {
		return cpu(o.t, o.logPID) + cpu(o.t, o.storms[0].pid) + cpu(o.t, o.storms[1].pid)
	}
	before, beforeOthers := cpu(o.t, o.server.pid), others()
	defer func() { o.used, o.others = cpu(o.t, o.server.pid)-before, others()-beforeOthers }()
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

// calibrate measures the capacity with 64 clients.
func (o *overload) calibrate() {
	o.t.Helper()
	calm := o.rage(o.requests[email], 64, 0, o.duration/4)
	o.capacity, o.cost = calm.rate(), micro(o.used)/float64(calm.Accepted)
	o.t.Logf("capacity with 64 clients: %.0f certificates/s, %.0f µs each, %s; %d goroutines", o.capacity, o.cost, o.cores(calm), o.goroutines())
}

// cores states how busy the server and the other core were: a generator without CPU time measures itself.
func (o *overload) cores(w weather) string {
	return fmt.Sprintf("CPU %.2f, of generators and log %.2f", o.used.Seconds()/w.Elapsed.Seconds(), o.others.Seconds()/w.Elapsed.Seconds())
}

// row runs a storm and reports a line of the table. goodput is the part of the capacity that is expected. The capacity is
// the mean of that before the storm and that after it, since other programs of the machine change it.
func (o *overload) row(name string, clients int, times, goodput float64) {
	o.t.Helper()
	w := o.rage(o.requests[email], clients, times*o.capacity, o.duration)
	used, cores, capacity, cost := o.used, o.cores(w), o.capacity, o.cost
	recovery := o.recovery()
	o.calibrate()
	capacity, cost = (capacity+o.capacity)/2, (cost+o.cost)/2
	h := hdrhistogram.Import(w.Latency)
	_, peak := memory(o.t, o.server.pid)
	o.t.Logf("%-28s %6.0f/s %4.0f %%  ≥ %2.0f %%  p50 %5.0f ms  p99 %5.0f ms  refused %6d  given up %6d  failed %4d  peak %3.0f MiB  recovery %4.2f s  %.0f µs a certificate, refusals included; %s",
		name, w.rate(), 100*w.rate()/capacity, 100*goodput, float64(h.ValueAtQuantile(50))/1000, float64(h.ValueAtQuantile(99))/1000,
		w.Refused, w.GivenUp, w.Failed, peak, recovery.Seconds(), micro(used)/float64(w.Accepted), cores)
	if w.Refused > 0 && times > 0 {
		o.t.Logf("a refusal: %.0f µs", (micro(used)-float64(w.Accepted)*cost)/float64(w.Refused))
	}
	if w.Failure != "" {
		o.t.Logf("a failure: %s", w.Failure)
	}
}

// neighbors measures what 99 organisations lose that use half of the capacity together, while another
// one sends as much as the whole capacity: a hundred times its share.
func (o *overload) neighbors() {
	o.t.Helper()
	o.storms[1].send(storm{Address: o.server.http, Requests: o.requests[ci], Clients: o.clients / 2, Rate: o.capacity, Duration: o.duration})
	quiet := o.rage(o.requests[orgs], o.clients/2, o.capacity/2, o.duration)
	var noisy weather
	o.storms[1].receive(&noisy)
	lost := quiet.Refused + quiet.Failed + quiet.GivenUp
	h := hdrhistogram.Import(quiet.Latency)
	o.t.Logf("99 organisations beside a noisy one: %d of %d requests lost (%.2f %%, ≤ 1 %%; %d refused, %d failed, %d given up), p50 %d ms, p99 %d ms; the noisy one got %.0f certificates/s, %d requests refused",
		lost, lost+quiet.Accepted, 100*float64(lost)/float64(lost+quiet.Accepted), quiet.Refused, quiet.Failed, quiet.GivenUp, h.ValueAtQuantile(50)/1000, h.ValueAtQuantile(99)/1000, noisy.rate(), noisy.Refused)
}

// TestRefusals is a short form: a server that gets more than it answers refuses the rest, in time, and
// recovers.
func TestRefusals(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	o := &overload{world: b.world, clients: 24, duration: 300 * time.Millisecond, capacity: 100}
	o.storms[0], o.storms[1] = newActor(t, "storm"), newActor(t, "storm")
	o.server, _ = b.serveProfiled(setting{curve: "p256", addition: "limits: {in_flight: 8}"}, processor)
	w := o.rage(o.requests[email], o.clients, 20_000, o.duration)
	if w.Accepted == 0 || w.Refused == 0 || w.Failed > 0 {
		t.Errorf("an open loop: %d accepted, %d refused, %d failed with: %s", w.Accepted, w.Refused, w.Failed, w.Failure)
	}
	w = o.rage(o.requests[email], o.clients, 0, o.duration)
	if w.Accepted == 0 || w.Failed > 0 {
		t.Errorf("a closed loop: %d accepted, %d failed with: %s", w.Accepted, w.Failed, w.Failure)
	}
	o.neighbors()
	if calm := o.rage(o.requests[email], 1, 0, o.duration); calm.Accepted == 0 || calm.Refused+calm.Failed > 0 {
		t.Errorf("afterwards: %d accepted, %d refused, %d failed", calm.Accepted, calm.Refused, calm.Failed)
	}
}

// TestOverload measures a server that gets more than it can answer (make overload).
func TestOverload(t *testing.T) {
	if os.Getenv("MAYFLY_OVERLOAD") != "1" {
		t.Skip("make overload runs this test")
	}
	o := newOverload(t, variable("SECONDS", 60, positive)(t), variable("CLIENTS", 1500, positive)(t), "")
	rows, idle := regexp.MustCompile(os.Getenv("ROWS")), o.goroutines()
	o.rage(o.requests[email], 64, 0, o.duration/10)
	o.calibrate()
	for _, row := range []struct {
		name           string
		clients        int
		times, goodput float64
	}{
		{"open loop, 3 times capacity", o.clients, 3, 0.7},
		{"open loop, 10 times capacity", o.clients, 10, 0.25},
		{"neighbors", 0, 0, 0},
		{"640 clients, Retry-After", 640, 0, 0.9},
		{"5120 clients, Retry-After", 5120, 0, 0.9},
	} {
		switch {
		case !rows.MatchString(row.name):
		case row.clients == 0:
			o.neighbors()
		default:
			o.row(row.name, row.clients, row.times, row.goodput)
		}
	}
	o.rest(idle)
}

// rest checks that no goroutine is left but those of the server at rest. Under load there are two more for each connection to the
// log, of which the server keeps up to 128 for 90 s.
func (o *overload) rest(idle int) {
	o.t.Helper()
	begin, left := time.Now(), o.goroutines()
	busy := left
	for tick := time.NewTicker(time.Second); left > idle && time.Since(begin) < 2*time.Minute; <-tick.C {
		left = o.goroutines()
	}
	o.t.Logf("goroutines: %d before, %d after, %d at rest %.0f s later", idle, busy, left, time.Since(begin).Seconds())
	if left > idle {
		o.t.Errorf("%d goroutines are left; %d are expected", left, idle)
	}
}
