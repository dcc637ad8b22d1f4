// SPDX-License-Identifier: Apache-2.0

package load

import (
	"crypto/rand"
	"crypto/rsa"
	"encoding/json"
	"fmt"
	"maps"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"

	"github.com/mayfly-ca/mayfly/oidc/provider"
	"github.com/mayfly-ca/mayfly/test/testworld"
)

// curves are what `make growth` measures.
func curves() []curve {
	certificate := func(b bound) panel { return panel{"cpu", "CPU of a certificate", "µs", b} }
	memory := panel{"memory", "memory in use", "MiB", linear}
	return []curve{
		{"issuers", "How a server grows with its issuers", "issuers", []panel{certificate(within(0.05)), memory,
			{"start", "start to first answer", "ms", atMost(150)}, {"reload", "CPU of a reload", "ms", linear}}},
		{"patterns", "How a server grows with its wildcard patterns", "patterns", []panel{certificate(within(0.05)), memory}},
		{"claims", "How a certificate grows with the ID token", "bytes of the token", []panel{certificate(linear)}},
		{"rules", "How a server grows with its policy rules", "rules, at most 100 for an issuer", []panel{
			{"enforce", "CPU, mode enforce", "µs", nil}, {"audit", "CPU, mode audit (shadow)", "µs", nil}, {"start", "start to first answer", "ms", nil}}},
		{"log", "How the embedded log grows with its entries", "entries", []panel{
			{"add64", "add, 64 clients, p50", "ms", within(0.10)}, {"add1", "add, 1 client, p50", "ms", within(0.10)},
			{"proof", "inclusion proof", "µs", within(0.10)}, {"checkpoint", "checkpoint", "µs", within(0.10)}}},
		{"clients", "How a server grows with its clients", "clients", []panel{
			{"throughput", "throughput", "certificates/s", within(-0.10)}, {"p50", "p50", "ms", nil}, {"tail", "p99 over p50", "times", atMost(4)}}},
		{"replicas", "How replicas share one log", "processes", []panel{certificate(within(0.10)), {"throughput", "throughput of all", "certificates/s", nil}}},
	}
}

// TestGrowth measures the curves (make growth): sizes alternate in each round.
func TestGrowth(t *testing.T) {
	if os.Getenv("MAYFLY_GROWTH") != "1" {
		t.Skip("make growth runs this test")
	}
	curves := map[string]func(*grown) figures{
		"issuers": (*grown).issuers, "patterns": (*grown).patterns, "claims": (*grown).claims, "rules": (*grown).rules,
		"log": (*grown).embeddedLog, "clients": (*grown).clients, "replicas": (*grown).replicas,
	}
	selected := slices.Sorted(maps.Keys(curves))
	if names := os.Getenv("CURVES"); names != "" {
		selected = strings.Split(names, "|")
	}
	for _, name := range selected {
		if curves[name] == nil {
			t.Fatalf("CURVES names %q; some of %q with | between are expected", name, slices.Sorted(maps.Keys(curves)))
		}
	}
	for _, name := range selected {
		t.Run(name, func(t *testing.T) {
			g := newGrown(t)
			f := curves[name](g)
			for _, panel := range slices.Sorted(maps.Keys(f)) {
				for _, p := range f[panel] {
					t.Logf("%s: %d: %s %s (%s to %s)", name, p.Size, panel, number(p.Median), number(p.Low), number(p.High))
				}
			}
			if *update && !t.Failed() {
				record(t, name, f)
			}
		})
	}
}

// machine states what the figures are from.
func machine() string {
	model := "an unknown processor"
	if text, err := os.ReadFile("/proc/cpuinfo"); err == nil {
		if found := regexp.MustCompile(`(?m)^model name\s*:\s*(.+)$`).FindSubmatch(text); found != nil {
			model = string(found[1])
		}
	}
	return fmt.Sprintf("a virtual machine with %d cores (%s, %s/%s), which also run the clients and the log", runtime.NumCPU(), model, runtime.GOOS, runtime.GOARCH)
}

// grown is a world whose servers differ in size.
type grown struct {
	*world
	generator *actor
	rounds    int
	farm      *farm
}

func newGrown(t testing.TB) *grown {
	t.Helper()
	g := &grown{world: newWorld(t, ""), generator: newActor(t, "generator"), rounds: variable("ROUNDS", 10, positive)(t)}
	g.farm = newFarm(t)
	return g
}

// farm is a provider with as many issuers as a test names: each path is an issuer URL, and all have one
// key.
type farm struct {
	url   string
	key   *rsa.PrivateKey
	reads atomic.Int64 // of key sets
}

func newFarm(t testing.TB) *farm {
	t.Helper()
	l := must(net.Listen("tcp", host+":0"))(t)
	t.Cleanup(func() { _ = l.Close() })
	f := &farm{url: "http://" + l.Addr().String(), key: must(rsa.GenerateKey(rand.Reader, 2048))(t)}
	keys := must(provider.New(provider.Config{IssuerURL: f.url, Key: f.key}))(t)
	go func() {
		_ = http.Serve(l, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if path, ok := strings.CutSuffix(r.URL.Path, provider.DiscoveryPath); ok {
				_ = json.NewEncoder(w).Encode(map[string]any{
					"issuer": f.url + path, "jwks_uri": f.url + "/keys", "id_token_signing_alg_values_supported": []string{"RS256"},
				})
				return
			}
			f.reads.Add(1)
			keys.ServeHTTP(w, r)
		}))
	}()
	return f
}

// prepare writes a file of requests with tokens of an issuer of the farm, and returns its name.
func (g *grown) prepare(name, issuer string, claimsOf func(i int) (challenge string, claims map[string]any)) string {
	g.t.Helper()
	p := must(provider.New(provider.Config{IssuerURL: issuer, Key: g.farm.key, Lifetime: 2 * time.Hour}))(g.t)
	g.write(name, must(json.Marshal(prepare(g.t, p, claimsOf)))(g.t))
	return filepath.Join(g.dir, name)
}

// audience is short: an issuer file has at most 1 MiB.
const audience = "ca"

func emailToken(i int) (challenge string, claims map[string]any) {
	challenge, claims = tokenOf(email, i)
	claims["aud"] = audience
	return challenge, claims
}

// server starts a server with an issuer file that has these entries beside the world's, and returns when
// it has read the keys of so many of the farm's issuers.
func (g *grown) server(entries string, keys int) *instance {
	g.t.Helper()
	before := g.farm.reads.Load()
	s := g.serve(setting{curve: "p256", issuers: entries})
	for tick := time.NewTicker(20 * time.Millisecond); g.farm.reads.Load() < before+int64(keys); <-tick.C {
		if g.t.Context().Err() != nil {
			g.t.FailNow()
		}
	}
	return s
}

// memoryOf is the resident memory of such a server, in MiB, if it collects before a tenth of its memory is
// garbage: with the usual GOGC, the garbage of the start decides for a long time.
func (g *grown) memoryOf(entries string, keys int) float64 {
	g.t.Helper()
	before, set := os.LookupEnv("GOGC")
	must(0, os.Setenv("GOGC", "10"))(g.t)
	restore := func() {
		if _ = os.Unsetenv("GOGC"); set {
			_ = os.Setenv("GOGC", before)
		}
	}
	defer restore() // also if the server does not start: later curves have the usual value
	s := g.server(entries, keys)
	restore()
	g.run(s, job{API: restV2, Requests: g.requests[email], Clients: 4, Count: 400})
	resident, _ := memory(g.t, s.pid)
	must(0, syscall.Kill(s.pid, syscall.SIGTERM))(g.t)
	return resident
}

// costOf is the server's CPU time for one certificate, in microseconds.
func (g *grown) costOf(s *instance, requests string) float64 {
	g.t.Helper()
	before := cpu(g.t, s.pid)
	o := g.run(s, job{API: restV2, Requests: requests, Clients: 4, Count: 400})
	return micro(cpu(g.t, s.pid)-before) / float64(o.Answers)
}

func (g *grown) run(s *instance, j job) (o outcome) {
	g.t.Helper()
	j.Address = s.http
	g.generator.ask(j, &o)
	if o.Failures > 0 || o.Answers == 0 {
		g.t.Fatalf("%s: %d of %d requests failed, one with: %s", s.name, o.Failures, o.Answers+o.Failures, o.Failure)
	}
	return o
}

// alternate measures all sizes in each round, in turns of order, and returns the points by the names of
// the values.
func (g *grown) alternate(sizes []int, slice func(i int) map[string]float64) figures {
	g.t.Helper()
	values := map[string][][]float64{}
	for round := range g.rounds + 1 {
		for turn := range sizes {
			i := turn
			if round%2 == 1 {
				i = len(sizes) - 1 - turn
			}
			for name, value := range slice(i) {
				if values[name] == nil {
					values[name] = make([][]float64, len(sizes))
				}
				if round > 0 { // the first only warms up
					values[name][i] = append(values[name][i], value)
				}
			}
		}
	}
	f := figures{}
	for name, of := range values {
		f[name] = pointsOf(sizes, of)
	}
	return f
}

// pointsOf returns the points of one panel: of holds the values of all rounds for each size.
func pointsOf(sizes []int, of [][]float64) (points []point) {
	for i, size := range sizes {
		ratios := make([]float64, len(of[i]))
		for round := range ratios {
			ratios[round] = of[i][round] / of[0][round]
		}
		points = append(points, newPoint(size, median(of[0]), ratios))
	}
	points[0].Low, points[0].High = rounded(slices.Min(of[0])), rounded(slices.Max(of[0]))
	return points
}

func newPoint(size int, first float64, ratios []float64) point {
	return point{size, rounded(first * median(ratios)), rounded(first * slices.Min(ratios)), rounded(first * slices.Max(ratios))}
}

// rounded keeps the data file short.
func rounded(value float64) float64 {
	value, _ = strconv.ParseFloat(strconv.FormatFloat(value, 'g', 4, 64), 64)
	return value
}

// issuers measures servers with ever more issuers, of which one sends tokens.
func (g *grown) issuers() figures {
	sizes := []int{10, 100, 1000, 10_000}
	requests := g.prepare("issuers.json", g.farm.url+"/i0", emailToken)
	servers := make([]*instance, len(sizes))
	memories, starts, reloads := make([][]float64, len(sizes)), make([][]float64, len(sizes)), make([][]float64, len(sizes))
	for i, n := range sizes {
		entries := g.entries("oidc-issuers", "i%d", n-2) // two are the world's
		memories[i] = []float64{g.memoryOf(entries, n-2)}
		servers[i] = g.server(entries, n-2)
		for range min(g.rounds, 5) {
			starts[i] = append(starts[i], milli(g.startOf(servers[i])))
		}
	}
	f := g.alternate(sizes, func(i int) map[string]float64 { return map[string]float64{"cpu": g.costOf(servers[i], requests)} })
	for i, s := range servers {
		for range 3 {
			reloads[i] = append(reloads[i], milli(g.reload(s)))
		}
	}
	f["memory"], f["start"], f["reload"] = pointsOf(sizes, memories), pointsOf(sizes, starts), pointsOf(sizes, reloads)
	return f
}

func milli(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }

// entries is a section of an issuer file with so many issuers of the farm, of which format gives the path.
func (g *grown) entries(section, format string, n int) string {
	var b strings.Builder
	if section != "oidc-issuers" {
		b.WriteString(section + ":\n")
	}
	for i := range n {
		url := g.farm.url + "/" + fmt.Sprintf(format, i)
		if section == "oidc-issuers" {
			fmt.Fprintf(&b, "  %s: {issuer-url: %s, client-id: %s, type: email}\n", url, url, audience)
		} else {
			fmt.Fprintf(&b, "  %s: {client-id: %s, type: email}\n", url, audience)
		}
	}
	return b.String()
}

// startOf is the time from the start of a process with the configuration of s until its first answer.
func (g *grown) startOf(s *instance) time.Duration {
	g.t.Helper()
	addresses := must(testworld.FreeAddresses(host, 3))(g.t)
	cmd := exec.Command(must(binary())(g.t), "serve", "--config", filepath.Join(s.dir, "mayfly.yaml"))
	testworld.EndWithParent(cmd)
	for i, name := range []string{"HTTP", "GRPC", "OPS"} {
		cmd.Env = append(cmd.Env, "MAYFLY_LISTEN_"+name+"="+addresses[i])
	}
	begin := time.Now()
	if err := cmd.Start(); err != nil {
		g.t.Fatal(err)
	}
	defer terminate(cmd)
	for tick := time.NewTicker(time.Millisecond); time.Since(begin) < startLimit; <-tick.C {
		if get(g.t.Context(), "http://"+addresses[0]+"/livez") == nil {
			return time.Since(begin)
		}
	}
	g.t.Fatal("the server does not answer")
	return 0
}

// reload changes the issuer file of s, and returns the CPU time of the server until it uses the new one.
func (g *grown) reload(s *instance) time.Duration {
	g.t.Helper()
	const line = "issuers loaded"
	output, file := filepath.Join(s.dir, "output"), filepath.Join(s.dir, "issuers.yaml")
	loads := func() int { return strings.Count(string(must(os.ReadFile(output))(g.t)), line) }
	before, known := cpu(g.t, s.pid), loads()
	g.write(must(filepath.Rel(g.dir, file))(g.t), append(must(os.ReadFile(file))(g.t), "# changed\n"...))
	for tick := time.NewTicker(50 * time.Millisecond); loads() == known; <-tick.C {
		if g.t.Context().Err() != nil {
			g.t.FailNow()
		}
	}
	return cpu(g.t, s.pid) - before
}

// patterns measures servers with ever more wildcard patterns; the tokens are of the last one's issuer.
func (g *grown) patterns() figures {
	sizes := []int{1, 10, 100, 1000}
	servers, requests := make([]*instance, len(sizes)), make([]string, len(sizes))
	memories := make([][]float64, len(sizes))
	for i, n := range sizes {
		entries := g.entries("meta-issuers", "p%d/*", n)
		memories[i] = []float64{g.memoryOf(entries, 0)}
		servers[i] = g.server(entries, 0)
		requests[i] = g.prepare(fmt.Sprintf("patterns%d.json", n), fmt.Sprintf("%s/p%d/tenant", g.farm.url, n-1), emailToken)
	}
	f := g.alternate(sizes, func(i int) map[string]float64 { return map[string]float64{"cpu": g.costOf(servers[i], requests[i])} })
	f["memory"] = pointsOf(sizes, memories)
	return f
}

// claims measures tokens with ever more claims.
func (g *grown) claims() figures {
	sizes := []int{1 << 10, 2 << 10, 4 << 10, 8 << 10, 16 << 10}
	server, requests := g.server(g.entries("oidc-issuers", "i%d", 1), 1), make([]string, len(sizes))
	issuer := g.farm.url + "/i0"
	p := must(provider.New(provider.Config{IssuerURL: issuer, Key: g.farm.key, Lifetime: 2 * time.Hour}))(g.t)
	for i, size := range sizes {
		_, claims := emailToken(0)
		more := map[string]any{}
		for len(must(p.Mint(claims))(g.t)) < size-128 { // a claim has about 64 bytes in base64
			more[fmt.Sprintf("group_%04d", len(more))] = "platform-team/service-account"
			maps.Copy(claims, more)
		}
		requests[i] = g.prepare(fmt.Sprintf("claims%d.json", size), issuer, func(n int) (string, map[string]any) {
			challenge, claims := emailToken(n)
			maps.Copy(claims, more)
			return challenge, claims
		})
	}
	return g.alternate(sizes, func(i int) map[string]float64 { return map[string]float64{"cpu": g.costOf(server, requests[i])} })
}

// rules measures servers with ever more rules, of which the last one of the issuer allows the caller.
func (g *grown) rules() figures {
	const most = 100 // of one issuer
	sizes := []int{1, 10, 100, 1000, 10_000}
	starts := make([][]float64, len(sizes))
	var servers [2][]*instance
	modes := []string{"enforce", "audit"}
	requests := g.prepare("rules.json", g.farm.url+"/i0", emailToken)
	for i, size := range sizes {
		for j, mode := range modes {
			var text strings.Builder
			for issuer := range max(size/most, 1) {
				url := fmt.Sprintf("%s/i%d", g.farm.url, issuer)
				fmt.Fprintf(&text, "  %s:\n    issuer-url: %s\n    client-id: %s\n    type: email\n    mode: %s\n    allow:\n", url, url, audience, mode)
				for rule := range min(size, most) - 1 {
					fmt.Fprintf(&text, "      - {name: r%d, when: 'claims.email == \"team-%d@example.com\"'}\n", rule, rule)
				}
				text.WriteString("      - {name: last, when: 'claims.email.endsWith(\"@example.com\")'}\n")
			}
			servers[j] = append(servers[j], g.server(text.String(), max(size/most, 1)))
		}
		for range min(g.rounds, 5) {
			starts[i] = append(starts[i], milli(g.startOf(servers[0][i])))
		}
	}
	f := g.alternate(sizes, func(i int) map[string]float64 {
		return map[string]float64{"enforce": g.costOf(servers[0][i], requests), "audit": g.costOf(servers[1][i], requests)}
	})
	f["start"] = pointsOf(sizes, starts)
	return f
}

// embeddedLog runs BenchmarkGrowth of package ctlog/embedded, which measures each size beside an empty log.
func (g *grown) embeddedLog() figures {
	command := exec.CommandContext(g.t.Context(), "go", "test", "-run", "^$", "-bench", "Growth", "-benchtime", "1x", "-timeout", "60m", "../../ctlog/embedded")
	command.Stderr = os.Stderr
	output := string(must(command.Output())(g.t))
	var sizes []int
	empty, ratios := map[string][]float64{}, map[string]map[int][]float64{}
	for _, line := range regexp.MustCompile(`(?m)^BenchmarkGrowth/entries=(\d+)/.*$`).FindAllStringSubmatch(output, -1) {
		size, found := must(strconv.Atoi(line[1]))(g.t), map[string]float64{}
		for _, metric := range regexp.MustCompile(`([\d.e+-]+) ([a-z][a-z0-9-]+)`).FindAllStringSubmatch(line[0], -1) {
			found[metric[2]] = must(strconv.ParseFloat(metric[1], 64))(g.t)
		}
		if !slices.Contains(sizes, size) {
			sizes = append(sizes, size)
		}
		for _, name := range []string{"add64", "add1", "proof", "checkpoint"} {
			if ratios[name] == nil {
				ratios[name] = map[int][]float64{}
			}
			scale := 1.0
			if name == "proof" || name == "checkpoint" {
				scale = 1000 // in microseconds
			}
			empty[name] = append(empty[name], scale*found["empty-"+name])
			ratios[name][size] = append(ratios[name][size], found[name]/found["empty-"+name])
		}
	}
	f := figures{}
	for name, of := range ratios {
		for _, size := range sizes {
			f[name] = append(f[name], newPoint(size, median(empty[name]), of[size]))
		}
	}
	return f
}

// clients measures one server with ever more clients, each with a connection of its own.
func (g *grown) clients() figures {
	sizes := []int{16, 32, 64, 128, 256, 512}
	server := g.serve(setting{curve: "p256"})
	return g.alternate(sizes, func(i int) map[string]float64 {
		o := g.run(server, job{API: restV2, Requests: g.requests[email], Clients: sizes[i], Duration: time.Second})
		latency := hdrhistogram.Import(o.Latency)
		p50, p99 := float64(latency.ValueAtQuantile(50))/1000, float64(latency.ValueAtQuantile(99))/1000
		return map[string]float64{"throughput": o.rate(), "p50": p50, "tail": p99 / p50}
	})
}

// replicas measures ever more processes that submit to one log, each with the same rate of requests: more
// processes than cores would otherwise wait for each other.
func (g *grown) replicas() figures {
	const rate = 250 // a second for each, which leaves half of two cores to four of them
	sizes := []int{1, 2, 3, 4}
	var servers []*instance
	var generators []*actor
	for range sizes {
		servers, generators = append(servers, g.serve(setting{curve: "p256"})), append(generators, newActor(g.t, "generator"))
	}
	return g.alternate(sizes, func(i int) map[string]float64 {
		n := sizes[i]
		outcomes, used := make([]outcome, n), make([]time.Duration, n)
		var running sync.WaitGroup
		for r, s := range servers[:n] {
			used[r] = cpu(g.t, s.pid)
			running.Go(func() {
				generators[r].ask(job{API: restV2, Address: s.http, Requests: g.requests[email], Clients: 16, Rate: rate, Duration: 2 * time.Second}, &outcomes[r])
			})
		}
		running.Wait()
		answers, rate, all := 0, 0.0, time.Duration(0)
		for r, o := range outcomes {
			if o.Failures > 0 {
				g.t.Fatalf("%d requests failed, one with: %s", o.Failures, o.Failure)
			}
			answers, rate, all = answers+o.Answers, rate+o.rate(), all+cpu(g.t, servers[r].pid)-used[r]
		}
		return map[string]float64{"cpu": micro(all) / float64(answers), "throughput": rate}
	})
}
