// SPDX-License-Identifier: Apache-2.0

package dev

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	_ "embed"
	"encoding/hex"
	"fmt"
	"html/template"
	"net/http"
	"strings"
	"sync"
	texttemplate "text/template"
	"time"

	"github.com/mayfly-ca/mayfly/ctlog/embedded"
	"github.com/mayfly-ca/mayfly/ctlog/reader"
	"github.com/mayfly-ca/mayfly/internal/printable"
	"github.com/mayfly-ca/mayfly/oidc"
)

//go:embed commands.txt
var commandsText string

//go:embed page.html
var pageHTML string

var (
	commandsTemplate = texttemplate.Must(texttemplate.New("commands").Parse(commandsText))
	pageTemplate     = template.Must(template.New("page").Parse(pageHTML))
)

// maxRecent is the number of certificates that the page shows.
const maxRecent = 20

// stateAnswers is the state of a service without a fault.
const stateAnswers = "answers"

// Commands are the lines to paste: paragraphs of text, each with a paragraph of indented lines after it.
func (w *World) Commands() (string, error) {
	root, err := w.TUFRoot()
	if err != nil {
		return "", err
	}
	var text strings.Builder
	err = commandsTemplate.Execute(&text, map[string]string{
		"URL": w.URL(), "TUFMirror": w.TUFMirror(), "TokenURL": w.TokenURL(), "IssuerURL": w.IssuerURL(), "Email": DefaultEmail,
		"RootChecksum": fmt.Sprintf("%x", sha256.Sum256(root)),
	})
	return text.String(), err
}

// pageData is the content of the landing page.
type pageData struct {
	Nonce, URL, Warning string
	Services            []*service
	Issuers             []issuer
	Steps               []step
	Certificates        []certificate
	Problem             string // why there are no Certificates; "" for no problem
}

// service is a part of the world.
type service struct {
	Name, URL string
	Path      string // of something readable, which it can answer only while it works
	State     string // stateAnswers, or what a request gets instead
	post      string // a JSON document to POST to URL, instead of a request for Path
}

// OK reports whether the service answers.
func (s *service) OK() bool { return s.State == stateAnswers }

// issuer is an issuer that the CA trusts, and whose tokens it has, if it is the world's own.
type issuer struct {
	oidc.IssuerStatus
	About string
}

// step is a paragraph of Commands, and its lines.
type step struct {
	Text  string
	Lines [][]string // the words of each
}

// certificate is an entry of the log. Its texts are of the token that it was issued for.
type certificate struct {
	Identity, Issuer, Time, Serial string
}

// servePage shows people what runs, and what to do with it.
func (w *World) servePage(rw http.ResponseWriter, r *http.Request) {
	commands, err := w.Commands()
	if err != nil {
		http.Error(rw, err.Error(), http.StatusInternalServerError)
		return
	}
	data := pageData{
		Nonce: rand.Text(), URL: w.url, Warning: w.Warning(),
		Services: w.services(r.Context()), Steps: steps(commands),
	}
	for _, status := range w.app.Issuers() {
		shown := issuer{IssuerStatus: status}
		for _, kind := range w.kinds {
			if w.url+kind.Path == status.IssuerURL {
				shown.About = kind.About
			}
		}
		data.Issuers = append(data.Issuers, shown)
	}
	if data.Certificates, err = w.recent(r.Context()); err != nil {
		data.Problem = err.Error()
	}
	h := rw.Header()
	h.Set("Content-Type", "text/html; charset=utf-8")
	h.Set("Cache-Control", "no-store")
	h.Set("Content-Security-Policy", fmt.Sprintf("default-src 'none'; style-src 'nonce-%[1]s'; script-src 'nonce-%[1]s'; img-src data:; "+
		"base-uri 'none'; form-action 'none'; frame-ancestors 'none'", data.Nonce))
	h.Set("Referrer-Policy", "same-origin")
	_ = pageTemplate.Execute(rw, data) // fails only if the client is gone
}

// steps parses Commands.
func steps(commands string) (steps []step) {
	for paragraph := range strings.SplitSeq(strings.TrimSuffix(commands, "\n"), "\n\n") {
		if !strings.HasPrefix(paragraph, " ") {
			steps = append(steps, step{Text: paragraph})
			continue
		}
		last := &steps[len(steps)-1]
		for line := range strings.SplitSeq(paragraph, "\n") {
			last.Lines = append(last.Lines, strings.Split(strings.TrimSpace(line), " "))
		}
	}
	return steps
}

// services requests each service as a client does.
func (w *World) services(ctx context.Context) []*service {
	log := ctPath
	if w.fails(failCT) {
		log = failingLogPath
	}
	list := []*service{
		{Name: "Certificate authority", URL: w.url, Path: readyPath},
		{Name: "Certificate Transparency log", URL: w.url + log, Path: log + "/checkpoint"},
		{Name: "Timestamp authority", URL: w.TimestampURL(), Path: tsaPath + "/", post: `{"artifactHash":"` + strings.Repeat("A", 43) + `=","hashAlgorithm":"sha256"}`},
		{Name: "Rekor log", URL: w.RekorURL(), Path: rekorPath + "/api/v2/checkpoint"},
		{Name: "TUF mirror", URL: w.TUFMirror(), Path: tufPath + "/"},
	}
	var all sync.WaitGroup
	for _, s := range list {
		all.Go(func() { s.State = w.state(ctx, s) })
	}
	all.Wait()
	return list
}

// state is stateAnswers, or what this process gets instead of an answer of the service.
func (w *World) state(ctx context.Context, s *service) string {
	method, target := http.MethodGet, w.url+s.Path
	if s.post != "" {
		method, target = http.MethodPost, s.URL
	}
	request, err := http.NewRequestWithContext(ctx, method, target, strings.NewReader(s.post))
	if err != nil {
		return err.Error()
	}
	request.Header.Set("Content-Type", "application/json")
	response, err := w.client.Do(request)
	if err != nil {
		return err.Error()
	}
	_ = response.Body.Close()
	if response.StatusCode >= http.StatusMultipleChoices {
		return "HTTP " + response.Status
	}
	return stateAnswers
}

// recent returns the newest certificates in the log, the newest first.
func (w *World) recent(ctx context.Context) (list []certificate, err error) {
	log, err := embedded.Source(embedded.Config{Dir: w.path(ctFolder)})
	if err != nil {
		return nil, err
	}
	for found, err := range log.Search(ctx, reader.Query{}) {
		if err != nil {
			return nil, err
		}
		list = append(list, certificate{
			Identity: printable.Line(found.SAN.Value),
			Issuer:   printable.Line(found.Issuer),
			Time:     found.Timestamp.Format(time.DateTime),
			Serial:   hex.EncodeToString(found.Certificate.SerialNumber.Bytes()),
		})
		if len(list) == maxRecent {
			break
		}
	}
	return list, nil
}
