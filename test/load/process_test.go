// SPDX-License-Identifier: Apache-2.0

package load

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/mayfly-ca/mayfly/test/testworld"
)

// roleVariable, if it is set, makes this binary play one role of the measurement in a process of its
// own. The process reads JSON values from its input, answers each with one on its output, and stops
// when its input ends.
const roleVariable = "MAYFLY_LOAD_ROLE"

// stopLimit bounds the shutdown of a process before it is killed.
const stopLimit = 30 * time.Second

var roles = map[string]func(*json.Decoder, *json.Encoder) error{
	"generator": playGenerator,
	"log":       playLog,
	"server":    playServer,
	"stub":      playStub,
	"floor":     playFloor,
	"parent":    playParent,
	"storm":     playStorm,
}

// TestMain plays the role that the environment names, or runs the tests.
func TestMain(m *testing.M) {
	if role := os.Getenv(roleVariable); role != "" {
		if err := roles[role](json.NewDecoder(os.Stdin), json.NewEncoder(os.Stdout)); err != nil && err != io.EOF {
			fmt.Fprintf(os.Stderr, "%s: %v\n", role, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	code := m.Run()
	removeBinary()
	os.Exit(code)
}

// actor is a process that plays a role.
type actor struct {
	t    testing.TB
	role string
	pid  int
	in   *json.Encoder
	out  *json.Decoder
}

// newActor starts a process for role until the test ends.
func newActor(t testing.TB, role string) *actor {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	// The race detector would otherwise wait for a second when the process ends.
	cmd.Env, cmd.Stderr = append(os.Environ(), roleVariable+"="+role, "GOGC=350", "GORACE=atexit_sleep_ms=0"), os.Stderr
	in, err := cmd.StdinPipe()
	out := must(cmd.StdoutPipe())(t)
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = in.Close()
		stop(cmd)
	})
	return &actor{t, role, cmd.Process.Pid, json.NewEncoder(in), json.NewDecoder(out)}
}

// playParent starts a process that would outlive it and writes to the same output.
func playParent(in *json.Decoder, out *json.Encoder) error {
	cmd := exec.Command("sleep", "600")
	cmd.Stdout = os.Stdout
	testworld.EndWithParent(cmd)
	if err := cmd.Start(); err != nil {
		return err
	}
	if err := out.Encode(cmd.Process.Pid); err != nil {
		return err
	}
	return in.Decode(new(any))
}

// ask sends the process a request and waits for its answer.
func (a *actor) ask(request, answer any) {
	a.t.Helper()
	a.send(request)
	a.receive(answer)
}

func (a *actor) send(request any) {
	a.t.Helper()
	if err := a.in.Encode(request); err != nil {
		a.t.Fatalf("%s: %v", a.role, err)
	}
}

func (a *actor) receive(answer any) {
	a.t.Helper()
	if err := a.out.Decode(answer); err != nil {
		a.t.Fatalf("%s: %v", a.role, err)
	}
}

// stop waits for the process, and kills it after a limit.
func stop(cmd *exec.Cmd) {
	exited := make(chan struct{})
	go func() { _ = cmd.Wait(); close(exited) }()
	select {
	case <-exited:
	case <-time.After(stopLimit):
		_ = cmd.Process.Kill()
		<-exited
	}
}

// terminate asks the process to stop, and waits for it.
func terminate(cmd *exec.Cmd) {
	_ = cmd.Process.Signal(syscall.SIGTERM) // fails only if it has stopped already
	stop(cmd)
}

// cpu is the CPU time that the process has used in all its threads, user and system, by the kernel's
// clock of that process, in nanoseconds. /proc/PID/stat has the same time in ticks of 10 ms.
func cpu(t testing.TB, pid int) time.Duration {
	t.Helper()
	const scheduled = 2 // CPUCLOCK_SCHED in clock_gettime(2)'s encoding of a process as a clock
	var at unix.Timespec
	if err := unix.ClockGettime(int32(^pid)<<3|scheduled, &at); err != nil {
		t.Fatalf("reading the CPU time of process %d: %v", pid, err)
	}
	return time.Duration(at.Nano())
}

// busyTime is the CPU time that all processes of this machine have used since its start, in ticks of
// 10 ms.
func busyTime(t testing.TB) (busy time.Duration) {
	t.Helper()
	line, _, _ := strings.Cut(string(must(os.ReadFile("/proc/stat"))(t)), "\n")
	for i, field := range strings.Fields(line)[1:] {
		const idle, ioWait, guest = 3, 4, 8 // guest time is in user time, too
		if i != idle && i != ioWait && i < guest {
			busy += time.Duration(must(strconv.Atoi(field))(t)) * 10 * time.Millisecond
		}
	}
	return busy
}

// memory is the process's resident size and the largest that it has had, in MiB.
func memory(t testing.TB, pid int) (resident, peak float64) {
	t.Helper()
	status := must(os.ReadFile(fmt.Sprintf("/proc/%d/status", pid)))(t)
	field := func(name string) float64 {
		found := regexp.MustCompile(name + `:\s+(\d+) kB`).FindSubmatch(status)
		if found == nil {
			t.Fatalf("there is no %s in %s", name, status)
		}
		return float64(must(strconv.Atoi(string(found[1])))(t)) / 1024
	}
	return field("VmRSS"), field("VmHWM")
}

// must returns value, or fails the test if there is an error.
func must[T any](value T, err error) func(testing.TB) T {
	return func(t testing.TB) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return value
	}
}
