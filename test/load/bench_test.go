// SPDX-License-Identifier: Apache-2.0

package load

import (
	"cmp"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"

	"github.com/mayfly-ca/mayfly/test/testworld"
)

// defaultKinds are the rows of `make bench-server`: API, token, the CA's keys and the log; then the
// embedded log beside a remote one, and memory.
const defaultKinds = "rest-v2/email/p256/remote rest-v2/email/p384/remote rest-v2/ci/p256/remote rest-v2/ci/p384/remote " +
	"grpc/email/p256/remote embedded memory"

// targets are the figures to reach: the server's CPU time over the floor's (at most), and the peer's
// over the server's (at least).
var targets = map[string]struct{ floor, peer float64 }{
	"rest-v2/email/p256/remote": {1.60, 3.2},
	"rest-v2/email/p384/remote": {1.22, 2.2},
	"rest-v2/ci/p256/remote":    {1.80, 3.8},
	"rest-v2/ci/p384/remote":    {1.30, 2.7},
	"grpc/email/p256/remote":    {1.65, 0},
}

// bench is one measurement: all processes but the servers.
type bench struct {
	*world
	rounds, clients  int
	slice            time.Duration
	rate             float64
	generator, floor *actor
	stub             listening
	stubPID          int
	rows             []row
}

// row is one line of the table.
type row struct {
	name        string
	ours, other []float64
	ratios      []float64
	unit        string
	target      float64
	atLeast     bool
}

// TestFigures measures a server in a process of its own (make bench-server).
func TestFigures(t *testing.T) {
	if os.Getenv("MAYFLY_LOAD") != "1" {
		t.Skip("make bench-server runs this test")
	}
	b := newBench(t)
	for _, kind := range strings.Fields(strings.ReplaceAll(cmp.Or(os.Getenv("KINDS"), defaultKinds), ",", " ")) {
		switch kind {
		case "embedded":
			b.embedded()
		case "audit":
			b.audited()
		case "memory":
			b.memory()
		default:
			b.overFloor(kind)
		}
	}
	b.print()
}

func newBench(t testing.TB) *bench {
	t.Helper()
	b := &bench{
		world:   newWorld(t, os.Getenv("ISSUER")),
		rounds:  variable("ROUNDS", 10, positive)(t),
		clients: variable("CLIENTS", 64, positive)(t),
		slice:   variable("SLICE", time.Second, duration)(t),
		rate:    variable("RATE", 0, perSecond)(t),
	}
	b.generator, b.floor = newActor(t, "generator"), newActor(t, "floor")
	return b
}

func positive(text string) (int, error) {
	n, err := strconv.Atoi(text)
	if err != nil || n < 1 {
		return 0, errors.New("a whole number from 1 is expected")
	}
	return n, nil
}

func duration(text string) (time.Duration, error) {
	d, err := time.ParseDuration(text)
	if err != nil || d <= 0 {
		return 0, errors.New("a time such as 1s or 700ms is expected")
	}
	return d, nil
}

func perSecond(text string) (float64, error) {
	rate, err := strconv.ParseFloat(text, 64)
	if err != nil || !(rate > 0 && rate <= 1e6) {
		return 0, errors.New("requests a second, above 0, are expected")
	}
	return rate, nil
}

// variable returns the value of an environment variable, or a default.
func variable[T any](name string, otherwise T, parse func(string) (T, error)) func(testing.TB) T {
	text := os.Getenv(name)
	if text == "" {
		return must(otherwise, nil)
	}
	value, err := parse(text)
	if err != nil {
		err = fmt.Errorf("%s is %q: %w", name, text, err)
	}
	return must(value, err)
}

// parts splits a kind into the API, the token and the setting of the server.
func (b *bench) parts(kind string) (api, token string, s setting) {
	b.t.Helper()
	fields := strings.Split(kind, "/")
	valid := [][]string{{restV2, restV1, overG, restV2 + "+grpc", overG + "+rest"}, {email, ci}, {"p256", "p384"}, {"remote", "embedded"}}
	for i := range valid {
		if len(fields) != len(valid) || !slices.Contains(valid[i], fields[i]) {
			b.t.Fatalf("the kind is %q; embedded, audit, memory, or a choice of %q with slashes between is expected", kind, valid)
		}
	}
	api, other, _ := strings.Cut(fields[0], "+")
	return api, fields[1], setting{curve: fields[2], embedded: fields[3] == "embedded", onePort: other != ""}
}

// server starts mayfly, or returns the instance that the environment names.
func (b *bench) server(s setting) *instance {
	b.t.Helper()
	target := os.Getenv("TARGET")
	if target == "" {
		return b.serve(s)
	}
	address := must(loopbackTarget(target))(b.t)
	it := &instance{name: target, pid: variable("PID", 0, positive)(b.t), http: address, grpc: address}
	if it.pid == 0 || os.Getenv("ISSUER") == "" {
		b.t.Fatal("TARGET needs PID, the server's process, and ISSUER, the address in the URL of an issuer that the server trusts: the provider of these tokens will listen there")
	}
	return it
}

// loopbackTarget returns the address in the URL of a server, which must be on this machine.
func loopbackTarget(target string) (address string, err error) {
	u, err := url.Parse(target)
	if err != nil {
		return "", err
	}
	if ip := net.ParseIP(u.Hostname()); u.Scheme != "http" || u.Port() == "" || u.Hostname() != "localhost" && (ip == nil || !ip.IsLoopback()) {
		return "", fmt.Errorf("TARGET is %q; http, a loopback address and a port are expected", target)
	}
	return u.Host, nil
}

// ask runs a job at a server for one slice of time. A failure ends the test.
func (b *bench) ask(s *instance, api, token string) outcome {
	b.t.Helper()
	return b.run(s, job{API: api, Requests: b.requests[token], Clients: b.clients, Rate: b.rate, Duration: b.slice})
}

func (b *bench) run(s *instance, j job) (o outcome) {
	b.t.Helper()
	j.Address = s.address(j.API)
	b.generator.ask(j, &o)
	if o.Failures > 0 || o.Answers == 0 {
		b.t.Fatalf("%s: %d of %d requests failed, one with: %s", s.name, o.Failures, o.Answers+o.Failures, o.Failure)
	}
	return o
}

// costOf is ask with the server's CPU time per certificate, in microseconds.
func (b *bench) costOf(s *instance, api, token string) (micros float64, o outcome) {
	b.t.Helper()
	before := cpu(b.t, s.pid)
	o = b.ask(s, api, token)
	return micro(cpu(b.t, s.pid)-before) / float64(o.Answers), o
}

func micro(d time.Duration) float64 { return float64(d) / float64(time.Microsecond) }

// costOfFloor is the CPU time of a pass of the floor in microseconds, with passes in two goroutines
// while the generator sends requests to a stub at the rate of the server's last slice.
func (b *bench) costOfFloor(api, token, curve string, rate float64) float64 {
	b.t.Helper()
	address := b.stub.Address
	if api == overG {
		address = b.stub.GRPC
	}
	before := cpu(b.t, b.floor.pid)
	load := job{API: restV2, Address: address, Requests: b.requests[token], Clients: b.clients, Rate: rate, Duration: b.slice}
	if api == overG {
		load.API = overG
	}
	b.generator.send(load)
	p := passes{Curve: curve, Duration: b.slice}
	b.floor.ask(p, &p)
	cost := micro(cpu(b.t, b.floor.pid)-before) / float64(p.Count)
	var o outcome
	b.generator.receive(&o)
	if o.Failures > 0 {
		b.t.Fatalf("the stub: %d requests failed, one with: %s", o.Failures, o.Failure)
	}
	return cost
}

// startStub starts a server that answers as s does, but does no work.
func (b *bench) startStub(s *instance, token string) {
	b.t.Helper()
	o := b.run(s, job{API: restV2, Requests: b.requests[token], Clients: 1, Count: 1, Keep: 1})
	stub := newActor(b.t, "stub")
	stub.ask(o.Kept[0], &b.stub)
	b.stubPID = stub.pid
}

// overFloor measures a kind of request: the server, the floor and the peer in turn.
func (b *bench) overFloor(kind string) {
	b.t.Helper()
	api, token, s := b.parts(kind)
	ours := b.server(s)
	b.await(ours, "")
	b.startStub(ours, token)
	over := row{name: kind + " over the floor", unit: "µs", target: targets[kind].floor}
	peer := row{name: kind + " the peer over ours", unit: "µs", target: targets[kind].peer, atLeast: true}
	var theirs *instance
	if path := os.Getenv("PEER"); path != "" && !s.embedded && !s.onePort && os.Getenv("TARGET") == "" {
		theirs = b.serveWith(must(testworld.Executable("PEER", path))(b.t), s.curve)
		b.ask(theirs, api, token)
	}
	counted := []int{ours.pid, b.generator.pid, b.floor.pid, b.stubPID, b.logPID, os.Getpid()}
	if theirs != nil {
		counted = append(counted, theirs.pid)
	}
	other := b.otherLoad(counted...)
	all := newHistogram()
	answers, elapsed := 0, time.Duration(0)
	for round := range b.rounds + 1 {
		cost, o := b.costOf(ours, api, token)
		floor := b.costOfFloor(api, token, s.curve, o.rate())
		if round == 0 {
			continue // warms everything up
		}
		over.add(cost, floor, cost/floor)
		if theirs != nil {
			other, _ := b.costOf(theirs, api, token)
			peer.add(cost, other, other/cost)
		}
		all.Merge(hdrhistogram.Import(o.Latency))
		answers, elapsed = answers+o.Answers, elapsed+o.Elapsed
	}
	resident, peak := memory(b.t, ours.pid)
	b.t.Logf("%s: %.0f certificates/s with %d clients; %s; resident %.0f MiB, peak %.0f MiB; %s",
		kind, float64(answers)/elapsed.Seconds(), b.clients, percentiles(all), resident, peak, other())
	b.rows = append(b.rows, over)
	if theirs != nil {
		b.rows = append(b.rows, peer)
	}
}

// embedded measures the throughput of 64 clients with the embedded log, beside the same server with a
// remote log. That log's process is not counted: the throughput is what the machine would have
// reached if the CPU time that the log took had gone to the server and the generator.
func (b *bench) embedded() {
	b.t.Helper()
	clients := b.clients
	defer func() { b.clients = clients }()
	b.clients = 64
	ours, remote := b.serve(setting{curve: "p256", embedded: true}), b.serve(setting{curve: "p256"})
	throughput := row{name: "embedded log, over a remote one", unit: "certificates/s", target: 0.9, atLeast: true}
	perCPU := row{name: "embedded log, CPU time of server and generator", unit: "µs"}
	var raw []float64
	all := newHistogram()
	other := b.otherLoad(ours.pid, remote.pid, b.generator.pid, b.logPID)
	for round := range b.rounds + 1 {
		ofOurs := b.cpuOf(ours.pid, b.generator.pid)
		o := b.ask(ours, restV2, email)
		ofOurs = b.cpuOf(ours.pid, b.generator.pid) - ofOurs
		counted, ofLog := b.cpuOf(remote.pid, b.generator.pid), b.cpuOf(b.logPID)
		r := b.ask(remote, restV2, email)
		counted, ofLog = b.cpuOf(remote.pid, b.generator.pid)-counted, b.cpuOf(b.logPID)-ofLog
		if round == 0 {
			continue // warms everything up
		}
		withoutLog := r.rate() * float64(counted+ofLog) / float64(counted)
		throughput.add(o.rate(), withoutLog, o.rate()/withoutLog)
		mine, theirs := micro(ofOurs)/float64(o.Answers), micro(counted)/float64(r.Answers)
		perCPU.add(mine, theirs, mine/theirs)
		raw = append(raw, r.rate())
		all.Merge(hdrhistogram.Import(o.Latency))
	}
	resident, peak := memory(b.t, ours.pid)
	b.t.Logf("embedded: %s; the remote log's process counted: %.0f certificates/s; resident %.0f MiB, peak %.0f MiB; %s",
		percentiles(all), median(raw), resident, peak, other())
	p50, p99 := float64(all.ValueAtQuantile(50))/1000, float64(all.ValueAtQuantile(99))/1000
	b.rows = append(b.rows, throughput, perCPU, single("embedded log, p50", "ms", p50, 30), single("embedded log, p99", "ms", p99, 60))
}

// audited measures the throughput of 64 clients with an audit log, beside the same server without one.
func (b *bench) audited() {
	b.t.Helper()
	clients := b.clients
	defer func() { b.clients = clients }()
	b.clients = 64
	with, without := b.serve(setting{curve: "p256", audit: true}), b.serve(setting{curve: "p256"})
	throughput := row{name: "with an audit log, over without", unit: "certificates/s", target: 0.9, atLeast: true}
	perCPU := row{name: "with an audit log, CPU time of the server", unit: "µs"}
	of, beside := newHistogram(), newHistogram()
	other := b.otherLoad(with.pid, without.pid, b.generator.pid, b.logPID)
	for round := range b.rounds + 1 {
		cost, o := b.costOf(with, restV2, email)
		costWithout, w := b.costOf(without, restV2, email)
		if round == 0 {
			continue // warms everything up
		}
		throughput.add(o.rate(), w.rate(), o.rate()/w.rate())
		perCPU.add(cost, costWithout, cost/costWithout)
		of.Merge(hdrhistogram.Import(o.Latency))
		beside.Merge(hdrhistogram.Import(w.Latency))
	}
	b.t.Logf("audit: %s; without: %s; %s", percentiles(of), percentiles(beside), other())
	b.rows = append(b.rows, throughput, perCPU)
}

// cpuOf is the CPU time that processes have used.
func (b *bench) cpuOf(pids ...int) (used time.Duration) {
	for _, pid := range pids {
		used += cpu(b.t, pid)
	}
	return used
}

// otherLoad begins to measure the CPU time of all processes of this machine except the given ones. Its
// result states it, since throughput and latency hold on an otherwise idle machine only.
func (b *bench) otherLoad(pids ...int) func() string {
	begin, busy, ours := time.Now(), busyTime(b.t), b.cpuOf(pids...)
	return func() string {
		other := busyTime(b.t) - busy - (b.cpuOf(pids...) - ours)
		return fmt.Sprintf("other processes took %.1f of %d CPUs", max(0, other.Seconds()/time.Since(begin).Seconds()), runtime.NumCPU())
	}
}

// memory measures the resident size of a server with 64 clients after numbers of certificates.
func (b *bench) memory() {
	b.t.Helper()
	server := b.server(setting{curve: "p256"})
	b.await(server, "")
	issued := 0
	var sizes []float64
	for _, n := range []int{10_000, 30_000, 100_000} {
		b.run(server, job{API: restV2, Requests: b.requests[email], Clients: 64, Count: n - issued})
		issued = n
		resident, peak := memory(b.t, server.pid)
		sizes = append(sizes, resident)
		b.rows = append(b.rows, single(fmt.Sprintf("resident memory after %d certificates", n), "MiB", resident, 64))
		b.t.Logf("memory: %d certificates: resident %.1f MiB, peak %.1f MiB", n, resident, peak)
	}
	grown := row{name: "resident memory, 100000 over 10000 certificates", unit: "MiB", target: 1.1}
	grown.add(sizes[2], sizes[0], sizes[2]/sizes[0])
	b.rows = append(b.rows, grown)
}

// single is a row with one value, which is expected to be at most most.
func single(name, unit string, value, most float64) row {
	return row{name: name, unit: unit, ours: []float64{value}, ratios: []float64{value}, target: most}
}

func (r *row) add(ours, other, ratio float64) {
	r.ours, r.other, r.ratios = append(r.ours, ours), append(r.other, other), append(r.ratios, ratio)
}

func median(values []float64) float64 {
	if len(values) == 0 {
		return 0
	}
	sorted := slices.Sorted(slices.Values(values))
	return (sorted[(len(sorted)-1)/2] + sorted[len(sorted)/2]) / 2
}

func percentiles(h *hdrhistogram.Histogram) string {
	ms := func(p float64) float64 { return float64(h.ValueAtQuantile(p)) / 1000 }
	return fmt.Sprintf("p50 %.1f ms, p99 %.1f, p99.9 %.1f, longest %.1f", ms(50), ms(99), ms(99.9), float64(h.Max())/1000)
}

// print prints the rows as a table.
func (b *bench) print() {
	b.t.Helper()
	b.t.Logf("%-52s %10s %10s  %-15s %6s %17s %8s", "", "ours", "other", "", "ratio", "min to max", "expected")
	for _, r := range b.rows {
		other, expected, reached := "", "", ""
		if len(r.other) > 0 {
			other = fmt.Sprintf("%.1f", median(r.other))
		}
		if ratio := median(r.ratios); r.target > 0 {
			sign, ok := "≤", ratio <= r.target
			if r.atLeast {
				sign, ok = "≥", ratio >= r.target
			}
			expected, reached = fmt.Sprintf("%s %.2f", sign, r.target), map[bool]string{true: "reached", false: "not reached"}[ok]
		}
		b.t.Logf("%-52s %10.1f %10s  %-15s %6.2f %8.2f %8.2f %8s  %s", r.name, median(r.ours), other, r.unit,
			median(r.ratios), slices.Min(r.ratios), slices.Max(r.ratios), expected, reached)
	}
}
