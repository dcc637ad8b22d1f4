// SPDX-License-Identifier: Apache-2.0

package app_test

import (
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/mayfly-ca/mayfly/ctlog/embedded"
	"github.com/mayfly-ca/mayfly/internal/client"
)

// A second replica of the same CA submits to the embedded log of the first, which takes no
// submission without its token.
func TestReplicaSubmitsToAnothersEmbeddedLog(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	path := func(name string) string { return filepath.Join(w.Dir, name) }
	created, err := embedded.Init(t.Context(), embedded.Config{
		Name: "2026", Dir: path("log"), Guard: path("guard/2026.json"), Key: path("log.key"), Origin: "log.example/2026",
	})
	if err != nil {
		t.Fatal(err)
	}
	remote := `{url: "` + w.LogURL + `", public_key: log.pub}`
	original := string(must(os.ReadFile(w.ConfigFile))(t))
	write(t, w, "log.token", "a-token-of-32-characters-for-logs\n")
	edit(t, w, "mayfly.yaml", remote, "{embedded: {name: \"2026\", dir: log, guard: guard/2026.json, key: log.key, origin: log.example/2026, submit: {token_file: log.token}}}")
	first := "http://" + serve(t, w)

	write(t, w, "embedded.pub", string(created.PublicKey))
	write(t, w, "mayfly.yaml", strings.Replace(original, remote, `{url: "`+first+`/ctlog/2026", public_key: embedded.pub, token_file: log.token}`, 1))
	second := "http://" + serve(t, w)
	write(t, w, "other.token", "another-token-that-is-not-the-logs")
	edit(t, w, "mayfly.yaml", "token_file: log.token", "token_file: other.token")
	third := "http://" + serve(t, w)

	for url, works := range map[string]bool{first: true, second: true, third: false} {
		ca := must(client.New(client.Config{URL: url}))(t)
		_, err := w.Request(t.Context(), ca, false)
		if works && err != nil {
			t.Errorf("a replica that has the token: %v", err)
		}
		if !works && (err == nil || !strings.Contains(err.Error(), "CT_UNAVAILABLE")) {
			t.Errorf("a replica with another token: got error %v, want CT_UNAVAILABLE", err)
		}
	}
	response := must(http.Get(first + "/ctlog/2026/checkpoint"))(t)
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		t.Errorf("the checkpoint is not served: %s", response.Status)
	}
}

func TestReplicaRefusesToSendATokenInClear(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	write(t, w, "log.token", "a-token-of-32-characters-for-logs\n")
	edit(t, w, "mayfly.yaml", `{url: "`+w.LogURL+`", public_key: log.pub}`, `{url: "http://log.example", public_key: log.pub, token_file: log.token}`)
	if _, err := build(t, w); err == nil || !strings.Contains(err.Error(), "mayfly.yaml:8:") || !strings.Contains(err.Error(), "without TLS") {
		t.Errorf("got error %v", err)
	}
}
