// SPDX-License-Identifier: Apache-2.0

package load

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"runtime/pprof"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/mayfly-ca/mayfly/app"
	"github.com/mayfly-ca/mayfly/ctlog/embedded"
)

// profiling is a request to a server with profiles: start one of kind cpu, or write a profile to File.
type profiling struct{ Config, Kind, File string }

// playServer is mayfly serve with profiles. Its first request names the configuration.
func playServer(in *json.Decoder, out *json.Encoder) error {
	var p profiling
	if err := in.Decode(&p); err != nil {
		return err
	}
	debug.SetMemoryLimit(192 << 20) // as mayfly serve does; GOGC is in the environment
	if p.Kind == allocations {
		runtime.MemProfileRate = 512 // bytes: a sample for each allocation of that size
	}
	output, err := os.Create(filepath.Join(filepath.Dir(p.Config), "output"))
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(context.Background())
	served := make(chan error, 1)
	go func() {
		served <- app.Serve(ctx, app.Options{
			ConfigFile: p.Config, Environ: os.Environ(), LogOutput: output, LibraryLog: embedded.RouteTesseraLogs, Version: "load",
		})
	}()
	err = profileOnRequest(in, out)
	cancel()
	if errors.Is(err, io.EOF) {
		err = nil
	}
	return errors.Join(err, <-served)
}

const (
	processor   = "cpu"
	allocations = "allocs"
)

// profileOnRequest starts a CPU profile at the first request, if it has that kind, and writes the
// profile at the second.
func profileOnRequest(in *json.Decoder, out *json.Encoder) error {
	var p profiling
	if err := out.Encode(p); err != nil {
		return err
	}
	for {
		if err := in.Decode(&p); err != nil {
			return err
		}
		var text bytes.Buffer
		if p.Kind == processor {
			if err := pprof.StartCPUProfile(&text); err != nil {
				return err
			}
		}
		if err := errors.Join(out.Encode(p), in.Decode(&p)); err != nil {
			return err
		}
		if p.Kind == processor {
			pprof.StopCPUProfile()
		} else {
			runtime.GC() // completes the profile
			if err := pprof.Lookup(allocations).WriteTo(&text, 0); err != nil {
				return err
			}
		}
		if err := errors.Join(os.WriteFile(p.File, text.Bytes(), 0o600), out.Encode(p)); err != nil {
			return err
		}
	}
}

// TestProfile profiles a server under load and prints where the time and the bytes go (make profile).
func TestProfile(t *testing.T) {
	dir := os.Getenv("MAYFLY_LOAD_PROFILE")
	if dir == "" {
		t.Skip("make profile runs this test")
	}
	b := newBench(t)
	api, token, s := b.parts(cmp.Or(os.Getenv("KINDS"), "rest-v2/email/p256/remote"))
	for _, kind := range []string{processor, allocations} {
		server, actor := b.serveProfiled(s, kind)
		b.ask(server, api, token) // warms everything up
		file := filepath.Join(dir, kind+".pprof")
		request := profiling{Kind: kind, File: file}
		actor.ask(request, &request)
		before, answers := cpu(t, server.pid), 0
		for range b.rounds {
			answers += b.ask(server, api, token).Answers
		}
		used := cpu(t, server.pid) - before
		actor.ask(request, &request)
		t.Logf("%s: %d certificates, %.0f µs of CPU time each (with the profile); %s", kind, answers, micro(used)/float64(answers), file)
		top := exec.CommandContext(t.Context(), "go", "tool", "pprof", "-top", "-nodecount=25", file)
		if kind == allocations {
			top.Args = append(top.Args[:4:4], "-sample_index=alloc_space", "-nodecount=25", file)
		}
		t.Logf("\n%s", must(top.Output())(t))
		b.printShares(kind, file, answers)
	}
}

// serveProfiled is serve with a server that can be profiled.
func (b *bench) serveProfiled(s setting, kind string) (*instance, *actor) {
	b.t.Helper()
	server, config, ready := b.configure(s)
	a := newActor(b.t, "server")
	a.ask(profiling{Config: config, Kind: kind}, &profiling{})
	server.pid = a.pid
	b.await(server, ready)
	return server, a
}

// shares are the amounts of a profile by the package that caused them: the innermost one that is not
// of Go's standard library.
type shares map[string]map[string]float64

// columns split the amount of a package by what the standard library did for it.
var columns = []struct {
	name     string
	prefixes []string // of functions
}{
	{"cryptography", []string{"crypto/", "math/big."}},
	{"allocation", []string{"runtime.mallocgc", "runtime.newobject", "runtime.makeslice", "runtime.growslice", "runtime.gcAssist"}},
	{"system calls", []string{"internal/runtime/syscall.", "syscall.", "runtime/internal/syscall.", "internal/syscall/", "runtime.futex", "runtime.epoll"}},
	{"JSON, encoding", []string{"encoding/", "reflect."}},
}

// printShares prints tables from the samples of a profile, for one certificate: by package, and by
// step.
func (b *bench) printShares(kind, file string, answers int) {
	b.t.Helper()
	args := []string{"tool", "pprof", "-traces", "-unit=us", file}
	if kind == allocations {
		args = []string{"tool", "pprof", "-traces", "-unit=B", "-sample_index=alloc_space", file}
	}
	text := string(must(exec.CommandContext(b.t.Context(), "go", args...).Output())(b.t))
	packages, steps := shares{}, shares{}
	for _, sample := range strings.Split(text, "-----------+-------------------------------------------------------")[1:] {
		amount, stack := parseSample(sample)
		if len(stack) == 0 {
			continue
		}
		owner, column := attribute(stack)
		amount /= float64(answers)
		packages.add(owner, column, amount)
		packages.add(total, column, amount)
		steps.add(step(stack), column, amount)
		steps.add(total, column, amount)
	}
	unit := map[string]string{processor: "µs", allocations: "bytes"}[kind]
	packages.print(b.t, "by package, "+unit+" for a certificate")
	steps.print(b.t, "by step, "+unit+" for a certificate")
}

// total is the first line of a table.
const total = "total"

func (s shares) add(owner, column string, amount float64) {
	if s[owner] == nil {
		s[owner] = map[string]float64{}
	}
	s[owner][column] += amount
}

func (s shares) sum(owner string) (sum float64) {
	for _, amount := range s[owner] {
		sum += amount
	}
	return sum
}

func (s shares) print(t testing.TB, title string) {
	t.Helper()
	header := fmt.Sprintf("%-64s %9s", title, "all")
	for _, c := range columns {
		header += fmt.Sprintf(" %14s", c.name)
	}
	t.Logf("%s %14s", header, "rest")
	names := make([]string, 0, len(s))
	for name := range s {
		names = append(names, name)
	}
	slices.SortFunc(names, func(x, y string) int { return cmp.Compare(s.sum(y), s.sum(x)) })
	for _, name := range names[:min(len(names), 30)] {
		line := fmt.Sprintf("%-64.64s %9.1f", name, s.sum(name))
		for _, c := range columns {
			line += fmt.Sprintf(" %14.1f", s[name][c.name])
		}
		t.Logf("%s %14.1f", line, s[name][""])
	}
}

// parseSample reads a sample of pprof -traces: an amount before the innermost function, then its
// callers, one on each line, and labels before them.
func parseSample(text string) (amount float64, stack []string) {
	for line := range strings.Lines(text) {
		fields := strings.Fields(line)
		switch {
		case len(fields) == 0 || strings.HasSuffix(fields[0], ":"):
		case stack == nil && len(fields) > 1:
			number := strings.TrimRight(fields[0], "usB")
			amount, _ = strconv.ParseFloat(number, 64)
			stack = append(stack, fields[1])
		case stack != nil:
			stack = append(stack, fields[0])
		}
	}
	return amount, stack
}

// attribute returns the package that a stack, innermost function first, belongs to, and its column.
func attribute(stack []string) (owner, column string) {
	for _, function := range stack {
		if !isStandard(function) {
			return packageOf(function), column
		}
		for _, c := range columns {
			if column == "" && slices.ContainsFunc(c.prefixes, func(prefix string) bool { return strings.HasPrefix(function, prefix) }) {
				column = c.name
			}
		}
	}
	outermost := stack[len(stack)-1]
	if column == "" && strings.HasPrefix(outermost, "runtime.gcBgMarkWorker") {
		column = "allocation"
	}
	return "(" + outermost + ")", column
}

// step returns what ca.Issue called, or outside of it the outermost function that is not of the
// standard library.
func step(stack []string) string {
	const issue = "ca.(*CA).Issue"
	for i, function := range stack {
		if short(function) == issue {
			return issue + " > " + short(stack[max(i-1, 0)])
		}
	}
	for _, function := range slices.Backward(stack) {
		if !isStandard(function) {
			return short(function)
		}
	}
	return "(" + stack[len(stack)-1] + ")"
}

// isStandard reports whether a function is of the standard library.
func isStandard(function string) bool {
	name, _, _ := strings.Cut(function, "[") // without type arguments
	first, _, isPath := strings.Cut(name, "/")
	return !isPath || !strings.Contains(first, ".") || strings.HasPrefix(name, "type:")
}

func short(function string) string {
	return strings.TrimPrefix(function, "github.com/mayfly-ca/mayfly/")
}

// packageOf returns the import path of a function's package.
func packageOf(function string) string {
	name, _, _ := strings.Cut(function, "[")
	slash := strings.LastIndexByte(name, '/')
	dot := strings.IndexByte(name[slash+1:], '.')
	return strings.TrimPrefix(function[:slash+1+dot], "github.com/mayfly-ca/mayfly/")
}
