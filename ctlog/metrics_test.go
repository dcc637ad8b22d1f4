// SPDX-License-Identifier: Apache-2.0

package ctlog_test

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/mayfly-ca/mayfly/ctlog"
	"github.com/mayfly-ca/mayfly/test/testlog"
)

func TestMetricsAndLog(t *testing.T) {
	t.Parallel()
	f := newFixture(t, nil)
	bad := newFixture(t, func(c *testlog.Config) { c.Unchecked, c.Name = true, "bad" }) // signs with its own key
	registry := prometheus.NewRegistry()
	var lines bytes.Buffer
	cfg := ctlog.Config{
		Logs: []ctlog.LogConfig{
			{Log: bad.log, PublicKey: newFixture(t, nil).log.PublicKeyPEM()},
			{Log: f.log, PublicKey: f.log.PublicKeyPEM()},
		},
		Logger: slog.New(slog.NewTextHandler(&lines, nil)), Registerer: registry,
		Budget: time.Hour, Hedge: 30 * time.Minute, // however slow the machine
	}
	logs := newLogs(t, cfg)
	for range 2 {
		if _, err := logs.Add(t.Context(), f.draft(t).Submission); err != nil {
			t.Fatal(err)
		}
	}
	counts := counters(t, registry)
	want := map[string]float64{
		"mayfly_ct_submissions_total bad invalid_sct":   2,
		"mayfly_ct_submissions_total testlog ok":        2,
		"mayfly_ct_submission_duration_seconds bad":     2,
		"mayfly_ct_submission_duration_seconds testlog": 2,
	}
	if diff := cmp.Diff(want, counts); diff != "" {
		t.Errorf("counters (-want +got):\n%s", diff)
	}
	if got := lines.String(); strings.Count(got, "level=ERROR") != 1 || !strings.Contains(got, "log=bad") || !strings.Contains(got, "its log ID is") {
		t.Errorf("log lines:\n%s", got)
	}
}

// counters returns the counters that are not zero and the numbers of observations, by metric and
// labels.
func counters(t *testing.T, registry *prometheus.Registry) map[string]float64 {
	t.Helper()
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	all := map[string]float64{}
	for _, family := range families {
		for _, metric := range family.GetMetric() {
			labels := family.GetName()
			for _, label := range metric.GetLabel() {
				labels += " " + label.GetValue()
			}
			if value := metric.GetCounter().GetValue() + float64(metric.GetHistogram().GetSampleCount()); value > 0 {
				all[labels] = value
			}
		}
	}
	return all
}

// TestOutageOfALogIsFewLines: for any number of requests, an outage is one line a minute for
// each result, and one for each change of the breaker.
func TestOutageOfALogIsFewLines(t *testing.T) {
	t.Parallel()
	f := newFixture(t, nil)
	sub, key := f.draft(t).Submission, f.log.PublicKeyPEM()
	synctest.Test(t, func(t *testing.T) {
		var lines bytes.Buffer
		down := &scripted{name: "log", steps: []step{failing(errRefused)}}
		logs := newLogs(t, ctlog.Config{
			Logs: []ctlog.LogConfig{{Log: down, PublicKey: key}}, Logger: slog.New(slog.NewTextHandler(&lines, nil)),
		})
		for range 300 {
			wantUnavailable(t, second(logs.Add(t.Context(), sub)))
			time.Sleep(time.Second)
		}
		if got := lines.String(); strings.Count(got, "\n") > 7 || strings.Count(got, "breaker has opened") != 1 || !strings.Contains(got, "left_out=") {
			t.Errorf("the lines of five minutes:\n%s", got)
		}
	})
}

func second[T any](_ T, err error) error { return err }

func TestMetricResults(t *testing.T) {
	t.Parallel()
	f := newFixture(t, nil)
	sub, key := f.draft(t).Submission, f.log.PublicKeyPEM()
	for want, answer := range map[string]step{
		"ok":       f.log.Submit,
		"refused":  failing(errRefused),
		"error":    failing(errors.New("parsing")),
		"timeout":  hanging,
		"canceled": failing(context.Canceled),
	} {
		synctest.Test(t, func(t *testing.T) {
			registry := prometheus.NewRegistry()
			log := &scripted{name: "log", steps: []step{answer}}
			logs := newLogs(t, ctlog.Config{Logs: []ctlog.LogConfig{{Log: log, PublicKey: key}}, Registerer: registry})
			_, _ = logs.Add(t.Context(), sub)
			got := counters(t, registry)
			delete(got, "mayfly_ct_submission_duration_seconds log")
			if diff := cmp.Diff(map[string]float64{"mayfly_ct_submissions_total log " + want: 1}, got); diff != "" {
				t.Errorf("result (-want +got):\n%s", diff)
			}
		})
	}
}

// breakerMetrics returns each log's state, by name.
func breakerMetrics(t *testing.T, registry *prometheus.Registry) []string {
	t.Helper()
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	states := map[string]string{}
	for _, family := range families {
		for _, metric := range family.GetMetric() {
			if family.GetName() == "mayfly_ct_breaker_state" && metric.GetGauge().GetValue() == 1 {
				states[metric.GetLabel()[0].GetValue()] += metric.GetLabel()[1].GetValue()
			}
		}
	}
	var list []string
	for _, name := range slices.Sorted(maps.Keys(states)) {
		list = append(list, states[name])
	}
	return list
}
