// SPDX-License-Identifier: Apache-2.0

package ctlog_test

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/mayfly-ca/mayfly/ctlog"
)

// samples returns the value of each counter and gauge that is not zero, and the number of observations
// of each histogram, by metric and labels.
func samples(t *testing.T, registry *prometheus.Registry) map[string]float64 {
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
			if value := metric.GetCounter().GetValue() + metric.GetGauge().GetValue() + float64(metric.GetHistogram().GetSampleCount()); value > 0 {
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
	sub, key := f.submission(t), f.log.PublicKeyPEM()
	inFakeTime(t, func(t *testing.T) {
		var lines bytes.Buffer
		down := &scripted{name: "log", steps: []step{failing(errRefused)}}
		logs := newLogs(t, ctlog.Config{
			Logs: []ctlog.LogConfig{{Log: down, PublicKey: key}}, Logger: slog.New(slog.NewTextHandler(&lines, nil)),
		})
		for range 300 {
			_, err := logs.Add(t.Context(), sub)
			wantUnavailable(t, err)
			time.Sleep(time.Second)
		}
		if got := lines.String(); strings.Count(got, "\n") > 7 || strings.Count(got, "breaker has opened") != 1 || !strings.Contains(got, "left_out=") {
			t.Errorf("the lines of five minutes:\n%s", got)
		}
	})
}

func TestMetricResults(t *testing.T) {
	t.Parallel()
	f, other := newFixture(t, nil), newFixture(t, nil)
	sub, key := f.submission(t), f.log.PublicKeyPEM()
	other.log.AddRoot(f.authority.Root)
	for want, answer := range map[string]step{
		"ok":          f.log.Submit,
		"invalid_sct": other.log.Submit,
		"refused":     failing(errRefused),
		"error":       failing(errors.New("parsing")),
		"timeout":     hanging,
		"canceled":    failing(context.Canceled),
	} {
		inFakeTime(t, func(t *testing.T) {
			registry := prometheus.NewRegistry()
			var lines bytes.Buffer
			logs := newLogs(t, ctlog.Config{
				Logs: []ctlog.LogConfig{{Log: &scripted{name: "log", steps: []step{answer}}, PublicKey: key}}, Registerer: registry,
				Logger: slog.New(slog.NewTextHandler(&lines, nil)),
			})
			_, _ = logs.Add(t.Context(), sub)
			if diff := cmp.Diff(map[string]float64{
				"mayfly_ct_submissions_total log " + want: 1, "mayfly_ct_submission_duration_seconds log": 1, "mayfly_ct_breaker_state log closed": 1,
			}, samples(t, registry)); diff != "" {
				t.Errorf("result (-want +got):\n%s", diff)
			}
			if isError := strings.Contains(lines.String(), "level=ERROR"); isError != (want == "invalid_sct") {
				t.Errorf("%s: log lines:\n%s", want, lines.String())
			}
		})
	}
}
