// SPDX-License-Identifier: Apache-2.0

package chaos

import (
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"text/tabwriter"
	"time"

	"github.com/mayfly-ca/mayfly/test/testlog"
)

// table collects the lines of all tests. TestMain prints it.
var table struct {
	sync.Mutex
	lines []*line
}

func report(l *line) {
	table.Lock()
	defer table.Unlock()
	table.lines = append(table.lines, l)
}

// printTable writes the table, with one line for each fault.
func printTable(w io.Writer) {
	table.Lock()
	defer table.Unlock()
	slices.SortStableFunc(table.lines, func(a, b *line) int { return strings.Compare(a.test, b.test) })
	var faults []string
	sums := map[string]*line{}
	for _, l := range table.lines {
		sum := sums[l.fault]
		if sum == nil {
			sum = &line{recovery: -1}
			sums[l.fault] = sum
			faults = append(faults, l.fault)
		}
		sum.requests, sum.certificates = sum.requests+l.requests, sum.certificates+l.certificates
		sum.right, sum.wrong, sum.lost = sum.right+l.right, sum.wrong+l.wrong, sum.lost+l.lost
		sum.recovery = max(sum.recovery, l.recovery)
	}
	out := tabwriter.NewWriter(w, 0, 4, 2, ' ', 0)
	fmt.Fprintln(out, "fault\trequests\tcertificates\trefused rightly\trefused wrongly\tlost\trecovery")
	for _, fault := range faults {
		l, recovery := sums[fault], "-"
		if l.recovery >= 0 {
			recovery = fmt.Sprintf("%.1f s", l.recovery.Seconds())
		}
		fmt.Fprintf(out, "%s\t%d\t%d\t%d\t%d\t%d\t%s\n", fault, l.requests, l.certificates, l.right, l.wrong, l.lost, recovery)
	}
	_ = out.Flush()
}

// TestLogs gives each fault to one of two logs, which no client may notice, and then to both.
func TestLogs(t *testing.T) {
	t.Parallel()
	for _, fault := range []struct {
		name  string
		begin func(w *world, l *ctLog)
		slow  bool // an answer comes in time, so that even two such logs lead to no refusal
	}{
		{"503", func(_ *world, l *ctLog) { l.Fail(testlog.Down(http.StatusServiceUnavailable)) }, false},
		{"hangs", func(_ *world, l *ctLog) { l.Fail(testlog.Hang) }, false},
		{"slow", func(_ *world, l *ctLog) { l.Fail(slow) }, true},
		{"garbage", func(_ *world, l *ctLog) { l.Fail(garbage) }, false},
		{"wrong key", func(w *world, l *ctLog) { l.use(l.impostor(t, w)) }, false},
	} {
		t.Run(fault.name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, 2)
			w.start()
			w.line("no fault")
			w.load()
			w.steady()
			first, second := w.logs[0], w.logs[1]
			w.line("one of two logs: %s", fault.name)
			fault.begin(w, first)
			w.asked(&first.calls)
			w.steady()
			w.line("every log: %s", fault.name)
			if fault.slow {
				fault.begin(w, second)
				w.asked(&second.calls)
				w.steady()
			} else {
				w.become(func(s *state) { s.logs = 0 })
				fault.begin(w, second)
				w.refused("CT_UNAVAILABLE")
			}
			w.recover(theForm().bound, func(s *state) { s.logs = 1 }, second.mend)
			w.steady()
			if first.mend(); full() { // the breaker of the log waits for 5 s
				w.asked(&first.calls)
			}
			w.steady()
			w.judge(nil)
		})
	}
}

// mend ends every fault of the log.
func (l *ctLog) mend() {
	l.Fail(nil)
	l.ahead.Store(0)
	l.use(l.Log)
}

// slow delays an answer for longer than the hedge delay, and not so long that it comes too late.
func slow(_ http.ResponseWriter, r *http.Request) bool {
	_, _ = io.Copy(io.Discard, io.LimitReader(r.Body, 0))
	select {
	case <-time.After(time.Second):
	case <-r.Context().Done():
	}
	return false
}

func garbage(w http.ResponseWriter, r *http.Request) bool {
	_, _ = io.Copy(io.Discard, r.Body)
	text := make([]byte, 1<<10)
	for i := range text {
		text[i] = byte(rand.Uint32())
	}
	w.Header().Set("Content-Type", "application/json")
	_, _ = w.Write(text)
	return true
}
