// SPDX-License-Identifier: Apache-2.0

package app_test

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/mayfly-ca/mayfly/server"
	"github.com/mayfly-ca/mayfly/test/collector"
)

// logLine is a row of the tables of lines in docs/logs.md.
type logLine struct{ levels, keys []string }

// readLogsDocument returns the lines by their message, and the types of the keys.
func readLogsDocument(t *testing.T) (lines map[string]logLine, keys map[string]string) {
	t.Helper()
	lines, keys = map[string]logLine{}, map[string]string{}
	quoted := regexp.MustCompile("`([^`]+)`")
	names := func(cell string) (all []string) {
		for _, m := range quoted.FindAllStringSubmatch(cell, -1) {
			all = append(all, m[1])
		}
		return all
	}
	head := ""
	for line := range strings.Lines(string(must(os.ReadFile("../docs/logs.md"))(t))) {
		cells := strings.Split(strings.Trim(strings.TrimSpace(line), "|"), " | ")
		switch {
		case !strings.HasPrefix(line, "|"):
			head = ""
		case head == "":
			head = strings.TrimSpace(cells[0])
		case strings.HasPrefix(line, "|---"):
		case head == "msg":
			lines[names(cells[0])[0]] = logLine{strings.Split(cells[1], ", "), names(cells[2])}
		case head == "key":
			types := strings.Split(cells[1], ", ")
			for i, key := range names(cells[0]) {
				keys[key], _, _ = strings.Cut(types[min(i, len(types)-1)], " (")
			}
		}
	}
	return lines, keys
}

// row returns the row of a message; that of any text where no other fits.
func row(lines map[string]logLine, message string) (name string) {
	name = "…"
	for candidate := range lines {
		if prefix, varies := strings.CutSuffix(candidate, "…"); message == candidate || varies && prefix != "" && strings.HasPrefix(message, prefix) {
			name = candidate
		}
	}
	return name
}

// A message, after the context and the level or in the assignment of a variable; and the key of an
// attribute.
var (
	logCall  = regexp.MustCompile(`(?:\.(?:Log(?:Attrs)?|NewRecord)\((?:[\w.]+(?:\([\w.]*\))?,\s*){2}|\bmessage :?= (?:[\w.]+, )*|\.ErrorContext\(ctx, )"((?:[^"\\]|\\.)*)"( \+)?`)
	slogAttr = regexp.MustCompile(`\bslog\.(\w+)\("(\w+)", `)
)

// inSources returns the messages and keys that the code can write, of lines that text in quotes names.
func inSources(t *testing.T) (messages, keys map[string]bool) {
	t.Helper()
	messages, keys = map[string]bool{}, map[string]bool{}
	for _, folder := range []string{".", "../server", "../server/trace", "../audit", "../ca", "../ca/signer", "../ca/signer/socket", "../oidc", "../identity/policy", "../ctlog", "../ctlog/embedded", "../internal/watch", "../internal/breaker", "../internal/ratelimit"} {
		for _, file := range must(filepath.Glob(folder + "/*.go"))(t) {
			if strings.HasSuffix(file, "_test.go") {
				continue
			}
			source := string(must(os.ReadFile(file))(t))
			for _, call := range logCall.FindAllStringSubmatch(source, -1) {
				messages[call[1]+map[bool]string{true: "…"}[call[2] != ""]] = true
			}
			for _, attr := range slogAttr.FindAllStringSubmatch(source, -1) {
				keys[attr[2]+map[string]string{"Duration": "_ms"}[attr[1]]] = true
			}
		}
	}
	return messages, keys
}

// docs/logs.md has each message and each key that the code can write, and no others.
func TestLogsDocumentIsComplete(t *testing.T) {
	t.Parallel()
	lines, keys := readLogsDocument(t)
	messages, written := inSources(t)
	fold := func(message string) string {
		if name := row(lines, message); name != "…" {
			return name
		}
		return message
	}
	inCode, inDocument := map[string]bool{"…": true}, map[string]bool{}
	for message := range messages {
		inCode[fold(message)] = true
	}
	used := map[string]bool{}
	for message, line := range lines {
		inDocument[message] = true
		for _, key := range line.keys {
			used[key] = true
		}
	}
	if diff := cmp.Diff(inCode, inDocument); diff != "" {
		t.Errorf("messages (-code +document):\n%s", diff)
	}
	documented := map[string]bool{}
	for key := range keys {
		_, last, _ := strings.Cut("."+key, ".")
		documented[strings.TrimPrefix(last, "policy.")] = true
		if !used[key] {
			t.Errorf("no line has the key %s", key)
		}
	}
	delete(written, "policy") // an object
	written["grpc"] = true    // not a literal there
	if diff := cmp.Diff(written, documented); diff != "" {
		t.Errorf("keys (-code +document):\n%s", diff)
	}
}

// flat returns the keys of a line in JSON and the types of their values, without those that every line has.
func flat(object map[string]any, prefix string) map[string]string {
	all := map[string]string{}
	for key, value := range object {
		switch v := value.(type) {
		case map[string]any:
			maps.Copy(all, flat(v, prefix+key+"."))
		case []any:
			all[prefix+key] = "list of strings"
		case string:
			all[prefix+key] = "string"
		case bool:
			all[prefix+key] = "boolean"
		case json.Number:
			if all[prefix+key] = "integer"; strings.Contains(v.String(), ".") {
				all[prefix+key] = "number"
			}
		}
	}
	if prefix == "" {
		maps.DeleteFunc(all, func(key, _ string) bool { return slices.Contains([]string{"time", "level", "msg"}, key) })
	}
	return all
}

// Each line of a server is as docs/logs.md describes it: certificates and refusals of each kind, reloads, a
// rotation, a fault and a shutdown. The two lines of a request have every key of the document in some case.
func TestLinesAreAsDocumented(t *testing.T) {
	t.Parallel()
	w := newWorld(t, withSet, withEmbedded, tracing(collector.New(t)), setting("public_url: https://ca.example\nshutdown: {grace: 1ms}"),
		edited("mayfly.yaml", "log: {format: text, level: error}", "log: {format: json, level: debug}"))
	var r *running
	t.Cleanup(func() { checkLines(t, r.log.String()) }) // once the server has stopped
	r = start(t, w, server.Mount{Path: "/dev/", Name: "dev", Handler: http.HandlerFunc(func(http.ResponseWriter, *http.Request) { panic("fault") })})
	issuers := string(must(os.ReadFile(path(w, "issuers.yaml")))(t))
	write := func(n int, more string) {
		written("issuers.yaml", issuers+more)(t, w)
		r.awaitGeneration(t, n)
	}
	wantReason(t, r, nil, "")
	again := must(r.Provider.Mint(map[string]any{"aud": "sigstore", "sub": "person-1", "email": "person@example.com", "email_verified": true}))(t)
	for range 2 { // without a key
		_, _ = r.ask(t, "", again)
	}
	_ = must(r.use(t.Context(), again))(t)
	const rules = `    allow:
      - {name: employees, when: 'claims.email.endsWith("@corp.example")'}
      - {name: grown-ups, when: 'claims.age > 17'}
`
	write(2, rules+"    mode: audit\n")
	wantReason(t, r, nil, "") // the second rule cannot be evaluated
	wantReason(t, r, map[string]any{"email": "ada@corp.example"}, "")
	write(3, rules)
	wantReason(t, r, map[string]any{"age": 3}, "POLICY_DENIED")
	wantReason(t, r, nil, "POLICY_DENIED")
	wantReason(t, r, map[string]any{"email_verified": false}, "EMAIL_UNVERIFIED")
	wantReason(t, r, map[string]any{"exp": 1}, "TOKEN_EXPIRED")
	rewritten("ca/ca.yaml", func(text string) string { return text + "# a comment\n" })(t, w)
	await(t, "the set", func() bool { return r.metric(t, `mayfly_ca_set_reloads_total{result="ok"}`) > 0 })
	for _, change := range []step{edited("mayfly.yaml", "grace: 1ms", "grace: 2ms"), edited("mayfly.yaml", "grace: 2ms", "grace: 1ms")} {
		before := r.metric(t, "mayfly_config_restart_pending")
		change(t, w)
		await(t, "the change", func() bool { return r.metric(t, "mayfly_config_restart_pending") != before })
	}
	written("issuers.yaml", "broken")(t, w)
	await(t, "the broken issuers", func() bool { return r.metric(t, "mayfly_config_stale") == 1 })
	fetch(t, r.rest+"/dev/x")
	fetch(t, r.rest+"/nothing")
}

func checkLines(t *testing.T, log string) {
	lines, keys := readLogsDocument(t)
	seen := map[string]map[string]bool{}
	for text := range strings.Lines(log) {
		var object map[string]any
		decoder := json.NewDecoder(strings.NewReader(text))
		decoder.UseNumber()
		if err := decoder.Decode(&object); err != nil {
			t.Errorf("%v: %s", err, text)
			continue
		}
		name := row(lines, fmt.Sprint(object["msg"]))
		if seen[name] == nil {
			seen[name] = map[string]bool{}
		}
		if !slices.Contains(lines[name].levels, fmt.Sprint(object["level"])) {
			t.Errorf("the level is not in the document: %s", text)
		}
		for key, of := range flat(object, "") {
			seen[name][key] = true
			ofRequest := key == "request_id" || key == "trace_id" // of each line that a request causes
			if want := keys[key]; !slices.Contains(lines[name].keys, key) && !ofRequest || want != of && !(want == "number" && of == "integer") {
				t.Errorf("the row %q lacks the key %s, or it is no %s: %s", name, key, of, text)
			}
		}
	}
	for _, name := range []string{"request", "certificate issued"} {
		for _, key := range lines[name].keys {
			// A certificate of a caller that no rule allows is one of mode audit.
			// left_out needs a flood (TestRefusedFloodIsFewLines of package server).
			if !seen[name][key] && !(name == "request" && slices.Contains([]string{"policy.rule", "policy.mode", "left_out"}, key)) {
				t.Errorf("no line %q has the key %s", name, key)
			}
		}
	}
	for _, name := range []string{"serving", "authority signs", "issuers loaded", "reloaded", "reloading: the last good one stays in use", "not ready any more, and still serving", "draining", "stopped",
		"the configuration file has changed: the changes take effect at a restart", "the configuration file is the one in use again"} {
		if seen[name] == nil {
			t.Errorf("there is no line %q", name)
		}
	}
}
