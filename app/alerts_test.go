// SPDX-License-Identifier: Apache-2.0

package app

import (
	"bytes"
	"log/slog"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.yaml.in/yaml/v3"

	"github.com/mayfly-ca/mayfly/ca/ceremony"
	"github.com/mayfly-ca/mayfly/config"
)

// The alerting rules parse, each states what to do, and every metric and runbook that they name
// exists.
func TestAlertRules(t *testing.T) {
	t.Parallel()
	content, err := os.ReadFile("../deploy/prometheus/alerts.yaml")
	if err != nil {
		t.Fatal(err)
	}
	var rules struct {
		Groups []struct {
			Name  string
			Rules []struct {
				Alert, Expr, For    string
				Labels, Annotations map[string]string
			}
		}
	}
	decoder := yaml.NewDecoder(bytes.NewReader(content))
	decoder.KnownFields(true)
	if err := decoder.Decode(&rules); err != nil {
		t.Fatal(err)
	}
	known := knownMetrics(t)
	name := regexp.MustCompile(`\bmayfly_[a-z_]+`)
	used := map[string]bool{}
	for _, group := range rules.Groups {
		for _, rule := range group.Rules {
			if rule.Annotations["summary"] == "" || rule.Labels["severity"] == "" || strings.Count(rule.Expr, "(") != strings.Count(rule.Expr, ")") {
				t.Errorf("%s lacks a summary or a severity, or its parentheses do not match", rule.Alert)
			}
			for _, metric := range name.FindAllString(rule.Expr, -1) {
				for _, part := range []string{"_bucket", "_count", "_sum"} { // of a histogram
					metric = strings.TrimSuffix(metric, part)
				}
				used[metric] = true
				if !known[metric] {
					t.Errorf("%s names the metric %s, which does not exist", rule.Alert, metric)
				}
			}
			if file, section, ok := strings.Cut(rule.Annotations["runbook"], "#"); ok {
				if !hasSection(t, file, section) {
					t.Errorf("%s names the runbook %s, which does not exist", rule.Alert, rule.Annotations["runbook"])
				}
			}
		}
	}
	for _, metric := range []string{"mayfly_ca_certificate_seconds_to_expiry", "mayfly_tls_certificate_seconds_to_expiry", "mayfly_ct_log_seconds_to_retirement", "mayfly_signer_breaker_state"} {
		if !used[metric] {
			t.Errorf("no rule watches %s", metric)
		}
	}
}

// knownMetrics are the metrics that this package registers.
func knownMetrics(t *testing.T) map[string]bool {
	t.Helper()
	made, err := ceremony.Init(ceremony.InitConfig{Dir: filepath.Join(t.TempDir(), "ca"), Algorithm: "ecdsa-p256"})
	if err != nil {
		t.Fatal(err)
	}
	registry := prometheus.NewRegistry()
	if _, err := newCASet(t.Context(), &config.Server{CA: config.CA{Set: made.SetFile}}, Options{}, slog.New(slog.DiscardHandler), registry); err != nil {
		t.Fatal(err)
	}
	registerCT(registry, &config.Server{}, time.Now)
	registry.MustRegister((&certificatePair{}).metrics())
	refusals(registry)
	descs := make(chan *prometheus.Desc, 100)
	registry.Describe(descs)
	close(descs)
	known := map[string]bool{}
	name := regexp.MustCompile(`fqName: "([a-z_]+)"`)
	for desc := range descs {
		if match := name.FindStringSubmatch(desc.String()); match != nil {
			known[match[1]] = true
		}
	}
	return known
}

// hasSection reports whether a document has a heading with the anchor that GitHub gives it.
func hasSection(t *testing.T, file, section string) bool {
	t.Helper()
	content, err := os.ReadFile(filepath.Join("..", file))
	if err != nil {
		t.Error(err)
		return false
	}
	for line := range strings.Lines(string(content)) {
		heading, ok := strings.CutPrefix(strings.TrimLeft(strings.TrimSpace(line), "#"), " ")
		if ok && strings.HasPrefix(line, "#") && strings.ReplaceAll(strings.ToLower(heading), " ", "-") == section {
			return true
		}
	}
	return false
}
