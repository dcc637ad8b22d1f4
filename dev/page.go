// SPDX-License-Identifier: Apache-2.0

package dev

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	_ "embed"
	"fmt"
	"html/template"
	"net/http"
	"strings"

	"github.com/mayfly-ca/mayfly/ctlog/embedded"
	"github.com/mayfly-ca/mayfly/ctlog/reader"
	"github.com/mayfly-ca/mayfly/internal/printable"
	"github.com/mayfly-ca/mayfly/internal/trustroot"
	"github.com/mayfly-ca/mayfly/oidc"
)

//go:embed commands.txt
var commandsText string

//go:embed page.html
var pageHTML string

var pageTemplate = template.Must(template.New("page").Funcs(template.FuncMap{
	"line": printable.Line, "split": strings.Split, "trim": strings.TrimSpace, "hasPrefix": strings.HasPrefix,
}).Parse(pageHTML))

// stateAnswers is the state of a service without a fault.
const stateAnswers = "answers"

// Commands are the lines to paste: paragraphs of text, each with a paragraph of indented lines after it.
func (w *World) Commands() (string, error) {
	root, err := w.TUFRoot()
	if err != nil {
		return "", err
	}
	checksum := fmt.Sprintf("%x", sha256.Sum256(root))
	return render(commandsText, map[string]any{"url": w.url, "email": DefaultEmail, "checksum": checksum})
}

// pageData is the content of the landing page, beside what the world's methods return.
type pageData struct {
	*World
	Nonce        string
	Logs         []trustroot.CTLog
	Issuers      []oidc.IssuerStatus
	Kinds        Kinds
	Certificates []*reader.Found
	Problem      error // why there are no Certificates; nil for no problem
}

// servePage shows people what runs, and what to do with it.
func (w *World) servePage(rw http.ResponseWriter, r *http.Request) {
	data := pageData{World: w, Nonce: rand.Text(), Logs: w.app.Instance().CTLogs, Issuers: w.app.Issuers(), Kinds: w.kinds}
	data.Certificates, data.Problem = w.recent(r.Context())
	var page bytes.Buffer
	if err := pageTemplate.Execute(&page, data); err != nil {
		http.Error(rw, err.Error(), http.StatusInternalServerError)
		return
	}
	h := rw.Header()
	h.Set("Content-Type", "text/html; charset=utf-8")
	h.Set("Cache-Control", "no-store")
	h.Set("Content-Security-Policy", fmt.Sprintf("default-src 'none'; style-src 'nonce-%[1]s'; script-src 'nonce-%[1]s'; img-src data:; "+
		"base-uri 'none'; form-action 'none'; frame-ancestors 'none'", data.Nonce))
	h.Set("Referrer-Policy", "same-origin")
	_, _ = page.WriteTo(rw) // fails only if the client is gone
}

// State is stateAnswers, or what this process gets from a URL of the world instead of an answer.
func (w *World) State(url string) string {
	if !strings.HasPrefix(url, w.url+"/") {
		return "elsewhere"
	}
	response, err := w.client.Get(url)
	if err != nil {
		return err.Error()
	}
	_ = response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return "HTTP " + response.Status
	}
	return stateAnswers
}

// recent returns the 20 newest certificates in the log, the newest first.
func (w *World) recent(ctx context.Context) (list []*reader.Found, err error) {
	log, err := embedded.Source(embedded.Config{Dir: w.path(ctFolder)})
	if err != nil {
		return nil, err
	}
	for found, err := range log.Search(ctx, reader.Query{}) {
		if list = append(list, found); err != nil || len(list) == 20 {
			return list, err
		}
	}
	return list, nil
}
