// SPDX-License-Identifier: Apache-2.0

package app_test

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/mayfly-ca/mayfly/app"
	"github.com/mayfly-ca/mayfly/test/collector"
)

// dashboard is deploy/grafana/mayfly.json.
type dashboard struct {
	UID         string
	Annotations struct {
		List []struct {
			Name, Expr string
			Datasource datasource
		}
	}
	Templating struct {
		List []struct {
			Name, Type, Query string
		}
	}
	Panels []panel
}

type datasource struct{ Type, UID string }

type panel struct {
	ID                       int
	Type, Title, Description string
	Datasource               datasource
	GridPos                  struct{ H, W, X, Y int }
	FieldConfig              struct{ Defaults struct{ Unit string } }
	Targets                  []struct {
		RefID, Expr, LegendFormat string
		Datasource                datasource
	}
}

func readDashboard(t *testing.T) dashboard {
	t.Helper()
	var loose struct {
		Templating struct {
			List []map[string]any `json:"list"`
		} `json:"templating"`
	}
	content := must(os.ReadFile("../deploy/grafana/mayfly.json"))(t)
	must(0, json.Unmarshal(content, &loose))(t)
	var rest map[string]json.RawMessage
	must(0, json.Unmarshal(content, &rest))(t)
	delete(rest, "templating") // whose queries have two forms
	var d dashboard
	must(0, json.Unmarshal(must(json.Marshal(rest))(t), &d))(t)
	for _, v := range loose.Templating.List {
		query, _ := v["definition"].(string)
		d.Templating.List = append(d.Templating.List, struct{ Name, Type, Query string }{v["name"].(string), v["type"].(string), query})
	}
	return d
}

// expressions returns all queries of the dashboard by the place where they are, with values for its
// variables.
func (d dashboard) expressions() map[string]string {
	all := map[string]string{}
	add := func(where, expr string) {
		all[where] = strings.NewReplacer("$__rate_interval", "5m", "$job", "mayfly", "$instance", "a").Replace(expr)
	}
	for _, p := range d.Panels {
		for _, target := range p.Targets {
			add("panel "+strconv.Itoa(p.ID)+" "+target.RefID, target.Expr)
		}
	}
	for _, a := range d.Annotations.List {
		add("annotation "+a.Name, a.Expr)
	}
	return all
}

// Each panel has an ID of its own, a place that no other panel takes, a unit, a description and the
// datasource of the variable; each query selects the job and the server of the variables, and those of the
// service level count the failures that the alerts count.
func TestDashboard(t *testing.T) {
	t.Parallel()
	d := readDashboard(t)
	variables := map[string]string{}
	for _, v := range d.Templating.List {
		variables[v.Name] = v.Type
	}
	if d.UID != "mayfly" || variables["datasource"] != "datasource" || variables["job"] != "query" || variables["instance"] != "query" {
		t.Errorf("the dashboard %q has the variables %v", d.UID, variables)
	}
	ids, rows, queries := map[int]bool{}, 0, 0
	prometheus := datasource{"prometheus", "${datasource}"}
	for i, p := range d.Panels {
		if ids[p.ID] || p.ID == 0 || p.Title == "" {
			t.Errorf("panel %d: another panel has its ID, or it has no title", p.ID)
		}
		ids[p.ID] = true
		for _, other := range d.Panels[:i] {
			a, b := p.GridPos, other.GridPos
			if a.X < b.X+b.W && b.X < a.X+a.W && a.Y < b.Y+b.H && b.Y < a.Y+a.H || a.X+a.W > 24 {
				t.Errorf("panel %q is in the place of %q, or outside of the grid", p.Title, other.Title)
			}
		}
		if p.Type == "row" {
			rows++
			continue
		}
		if p.FieldConfig.Defaults.Unit == "" || p.Description == "" || p.Datasource != prometheus || len(p.Targets) == 0 {
			t.Errorf("panel %q lacks a unit, a description, a query, or the datasource of the variable", p.Title)
		}
		for _, target := range p.Targets {
			queries++
			whole := strings.Count(target.Expr, "{") == strings.Count(target.Expr, `job=~"$job",instance=~"$instance"`)
			if target.Datasource != prometheus || target.RefID == "" || !whole {
				t.Errorf("panel %q, query %s: another datasource, or a metric of every job: %s", p.Title, target.RefID, target.Expr)
			}
			if strings.Contains(target.Expr, "mayfly_verified_requests_total{") {
				checkReasons(t, "panel "+p.Title, target.Expr)
			}
		}
	}
	if rows < 8 || queries < 50 {
		t.Errorf("%d rows and %d queries", rows, queries)
	}
}

// labelsOf returns the labels of each series that /metrics of a running server has, and of each
// metric of mayfly that needs a key outside of the process or an event to have a series.
func labelsOf(t *testing.T) map[string][]string {
	t.Helper()
	all := map[string][]string{}
	for name, d := range descriptions(t) {
		labels := strings.Split(d.labels, ", ")
		if all[name] = labels; d.kind == "histogram" {
			all[name+"_bucket"], all[name+"_sum"], all[name+"_count"] = append(labels, "le"), labels, labels
			delete(all, name)
		}
	}
	w := newWorld(t, withSet, withTLS, tracing(collector.New(t)))
	r := startAs(t, w, app.Options{ConfigFile: w.ConfigFile, Version: "v1"})
	label := regexp.MustCompile(`([a-zA-Z_]+)="(?:[^"\\]|\\.)*"`)
	series := regexp.MustCompile(`(?m)^([a-z_]+)(?:\{(.*)\})? `)
	for _, m := range series.FindAllStringSubmatch(fetch(t, r.ops+"/metrics"), -1) {
		for _, l := range label.FindAllStringSubmatch(m[2], -1) {
			if !slices.Contains(all[m[1]], l[1]) {
				all[m[1]] = append(all[m[1]], l[1])
			}
		}
		if all[m[1]] == nil {
			all[m[1]] = []string{}
		}
	}
	return all
}

// Each metric in the dashboard is one that a server has, and each label one that its metric has. Where
// promtool is at hand (make test-alerts), it parses each query.
func TestDashboardQueries(t *testing.T) {
	t.Parallel()
	labels := labelsOf(t)
	selector := regexp.MustCompile(`\b((?:mayfly|fulcio|http|grpc|go|process)_[a-z_]+)(?:\{([^}]*)\})?`)
	matcher := regexp.MustCompile(`([a-z_]+)(?:=~|!~|!=|=)"`)
	grouping := regexp.MustCompile(`\bby \(([a-z_, ]+)\)`)
	all := readDashboard(t).expressions()
	var rules []map[string]string
	for where, expr := range all {
		known := []string{"job", "instance"} // which Prometheus adds
		metrics := selector.FindAllStringSubmatch(expr, -1)
		for _, m := range metrics {
			has, ok := labels[m[1]]
			if !ok {
				t.Errorf("%s: no server has the metric %s", where, m[1])
			}
			known = append(known, has...)
			for _, l := range matcher.FindAllStringSubmatch(m[2], -1) {
				if !slices.Contains(has, l[1]) && l[1] != "job" && l[1] != "instance" {
					t.Errorf("%s: %s has no label %s", where, m[1], l[1])
				}
			}
		}
		for _, by := range grouping.FindAllStringSubmatch(expr, -1) {
			for _, l := range strings.Split(by[1], ", ") {
				if !slices.Contains(known, l) {
					t.Errorf("%s: no metric in the query has the label %s", where, l)
				}
			}
		}
		if len(metrics) == 0 && expr != "vector(0.0005)" {
			t.Errorf("%s has no metric: %s", where, expr)
		}
		rules = append(rules, map[string]string{"record": "r", "expr": expr})
	}
	promtool := os.Getenv("PROMTOOL")
	if promtool == "" {
		t.Logf("%d queries, which make test-alerts parses with promtool", len(all))
		return
	}
	for i := range rules { // promtool refuses a rule twice
		rules[i]["record"] += strconv.Itoa(i)
	}
	file := filepath.Join(t.TempDir(), "rules.json") // which is YAML too
	content := must(json.Marshal(map[string]any{"groups": []any{map[string]any{"name": "dashboard", "rules": rules}}}))(t)
	must(0, os.WriteFile(file, content, 0o600))(t)
	if out, err := exec.CommandContext(t.Context(), promtool, "check", "rules", file).CombinedOutput(); err != nil {
		t.Errorf("promtool: %v\n%s", err, out)
	}
}
