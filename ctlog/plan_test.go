// SPDX-License-Identifier: Apache-2.0

package ctlog

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// named is a Log that has only a name.
type named struct {
	Log
	name string
}

func (n named) Name() string { return n.name }

func membersOf(names string) []*member {
	var members []*member
	for name := range strings.FieldsSeq(names) {
		members = append(members, &member{Log: named{name: name}, breaker: newBreaker()})
	}
	return members
}

// TestPlan plays races without logs: "ask X", "fail X" for good, "fail X 100ms" for a retry
// after a pause, "rest X 1s". Each step follows its time, then the plan's expected result.
func TestPlan(t *testing.T) {
	t.Parallel()
	for name, script := range map[string]string{
		"the first at once, the others each a delay later": `
			0ms   next a
			0ms   ask a
			0ms   next 300ms
			299ms next 1ms
			300ms next b
			300ms ask b
			300ms next 300ms
			600ms next c
			600ms ask c
			600ms next never`,
		"at once on an error": `
			0ms  ask a
			10ms fail a
			10ms next b
			10ms ask b
			10ms next 300ms
			20ms fail b
			20ms next c`,
		"an error of a log that was asked earlier counts too": `
			0ms   ask a
			300ms ask b
			400ms fail a
			400ms next c`,
		"those who may recover come last": `
			0ms  ask a
			5ms  fail a 80ms
			5ms  next b
			5ms  ask b
			100ms next 205ms
			305ms next c
			305ms ask c
			305ms next 300ms
			605ms next a`,
		"with nobody else left, as soon as the pause is over": `
			0ms  ask a
			0ms  fail a 80ms
			0ms  ask b
			0ms  fail b
			0ms  ask c
			0ms  fail c
			0ms  next 80ms
			80ms next a`,
		"four times, and never again": `
			0ms ask b
			0ms ask c
			0ms ask a
			1ms fail a 1ms
			2ms ask a
			3ms fail a 1ms
			4ms ask a
			5ms fail a 1ms
			6ms ask a
			7ms fail a 1ms
			8ms next never`,
		"who wants to be left alone is": `
			0ms  rest a 1s
			0ms  next b
			0ms  ask b
			0ms  fail b
			0ms  ask c
			0ms  fail c
			0ms  next 1s
			1s   next a`,
		"not if it would be too late": `
			0ms  rest a 3751ms
			0ms  ask b
			0ms  fail b
			0ms  ask c
			0ms  fail c 3760ms
			0ms  next never`,
		"nobody is asked for the last moments": `
			0ms    ask a
			0ms    ask b
			3600ms fail b
			3600ms ask c
			3600ms next never`,
		"but at once is never too late": `
			0ms    ask a
			0ms    ask b
			3990ms fail b
			3990ms next c`,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			begin := time.Now()
			p := &plan{turns: order(membersOf("a b c"), begin), hedge: 300 * time.Millisecond, deadline: begin.Add(4 * time.Second)}
			for line := range strings.Lines(script) {
				fields := strings.Fields(line)
				if len(fields) == 0 {
					continue
				}
				play(t, p, begin, fields)
			}
		})
	}
}

func play(t *testing.T, p *plan, begin time.Time, fields []string) {
	t.Helper()
	duration := func(s string) time.Duration {
		d, err := time.ParseDuration(s)
		if err != nil {
			t.Fatal(err)
		}
		return d
	}
	now, i := begin.Add(duration(fields[0])), strings.Index("abc", fields[2])
	switch fields[1] {
	case "ask":
		p.asked(i, now)
	case "fail":
		pause := time.Duration(-1)
		if len(fields) > 3 {
			pause = duration(fields[3])
		}
		p.failed(i, now, pause)
	case "rest":
		p.postpone(i, now, now.Add(duration(fields[3])))
	case "next":
		i, wait := p.next(now)
		got := "never"
		if i >= 0 {
			got = p.turns[i].Name()
		} else if wait >= 0 {
			got = wait.String()
		}
		if got != fields[2] {
			t.Errorf("%s: next is %s", strings.Join(fields, " "), got)
		}
	default:
		t.Fatalf("unknown word %s", fields[1])
	}
}

func TestOrder(t *testing.T) {
	t.Parallel()
	// o is open, h half-open, r half-open and resting, f has failed four times.
	for states, want := range map[string]string{
		"c c c": "c0 c1 c2",
		"o c c": "c1 c2 o0",
		"f c c": "f0 c1 c2",
		"c c h": "h2 c0 c1",
		"h h c": "h0 c2 h1", // one probe at a time
		"o o o": "o0 o1 o2",
		"o h o": "h1 o0 o2",
		"r c h": "h2 c1 r0",
		"r o":   "r0 o1",
		"h":     "h0",
		"o":     "o0",
	} {
		t.Run(states, func(t *testing.T) {
			t.Parallel()
			now := time.Now()
			var members []*member
			for i, state := range strings.Fields(states) {
				m := &member{Log: named{name: fmt.Sprint(state, i)}, breaker: newBreaker()}
				failures, at, rest := breakerThreshold, now, time.Duration(0)
				switch state {
				case "c":
					failures = 0
				case "f":
					failures--
				case "h":
					at = now.Add(-probeInterval)
				case "r":
					at, rest = now.Add(-probeInterval), 10*time.Second
				}
				for range failures {
					m.breaker.Failed(at, errors.New("no"), rest)
				}
				members = append(members, m)
			}
			var got []string
			for _, turn := range order(members, now) {
				got = append(got, turn.Name())
			}
			if diff := cmp.Diff(want, strings.Join(got, " ")); diff != "" {
				t.Errorf("order (-want +got):\n%s", diff)
			}
		})
	}
}

func TestPauseAfter(t *testing.T) {
	t.Parallel()
	again := func(after time.Duration) error {
		return fmt.Errorf("once: %w", &RetryableError{After: after, Err: errors.New("busy")})
	}
	for range 100 {
		for attempts, most := range map[int]time.Duration{1: 100 * time.Millisecond, 2: 300 * time.Millisecond, 3: 900 * time.Millisecond} {
			if got := pauseAfter(again(0), attempts); got < most/2 || got > most {
				t.Errorf("after attempt %d the pause is %s, want %s to %s", attempts, got, most/2, most)
			}
		}
	}
	if got := pauseAfter(again(3*time.Second), 1); got != 3*time.Second {
		t.Errorf("Retry-After 3 s became %s", got)
	}
	if got := pauseAfter(again(24*time.Hour), 1); got != maxRest {
		t.Errorf("Retry-After of a day became %s", got)
	}
	if got := pauseAfter(errors.New("no"), 1); got >= 0 {
		t.Errorf("a final failure is to be repeated after %s", got)
	}
}
