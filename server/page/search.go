// SPDX-License-Identifier: Apache-2.0

package page

import (
	"bytes"
	"context"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/mayfly-ca/mayfly/ca"
	"github.com/mayfly-ca/mayfly/certs"
	"github.com/mayfly-ca/mayfly/ctlog/reader"
)

const (
	readTime = 2 * time.Second // for one search and its turn
	maxFound = 100             // certificates in an answer
	maxField = 512             // bytes of a field of the form
)

// Log is a log that can be read.
type Log struct {
	Name string
	ID   []byte // the SHA-256 of its key
	Open func(context.Context) (*reader.Source, error)
}

// read calls f with the log of a name, "" for the first, when no other request reads one.
func (p *pages) read(ctx context.Context, name string, f func(context.Context, Log, *reader.Source) error) error {
	i := slices.IndexFunc(p.Logs, func(l Log) bool { return l.Name == name || name == "" })
	if i < 0 {
		return errors.New("there is no such log")
	}
	ctx, cancel := context.WithTimeout(ctx, readTime)
	defer cancel()
	select {
	case p.reading <- struct{}{}:
		defer func() { <-p.reading }()
	case <-ctx.Done():
		return errors.New("another search is in progress; try again in a moment")
	}
	source, err := p.Logs[i].Open(ctx)
	if err != nil {
		return err
	}
	return f(ctx, p.Logs[i], source)
}

// searched is the form and its answer.
type searched struct {
	Logs                          []Log
	Log, Identity, Issuer, Serial string
	Asked                         bool
	Err                           error
	Found                         []*reader.Found
	// The search covered the newest Read of Size entries. Whole states that Found has all that match.
	Read, Size uint64
	Whole      bool
}

func (p *pages) search(w http.ResponseWriter, r *http.Request) {
	field := func(name string) string { return strings.TrimSpace(start(r.URL.Query().Get(name), maxField)) }
	s := searched{Logs: p.Logs, Log: field("log"), Identity: field("identity"), Issuer: field("issuer"), Serial: field("serial")}
	serial, err := hex.DecodeString(strings.ReplaceAll(s.Serial, ":", ""))
	query := reader.Query{Identity: s.Identity, Issuer: s.Issuer, Serial: bytes.TrimLeft(serial, "\x00")}
	query.Progress = func(done, _ uint64) { s.Read = done }
	switch s.Asked = s.Identity+s.Issuer+s.Serial != ""; {
	case err != nil:
		s.Err = errors.New("the serial number is not hexadecimal")
	case s.Asked:
		s.Err = p.read(r.Context(), s.Log, func(ctx context.Context, log Log, from *reader.Source) error {
			s.Log, s.Size = log.Name, from.Head.Size
			return s.run(ctx, from, query)
		})
	}
	p.show(w, http.StatusOK, "search", view{Title: "Search", Data: s})
}

// run searches until it has found maxFound certificates, or ctx ends.
func (s *searched) run(ctx context.Context, from *reader.Source, query reader.Query) error {
	for found, err := range from.Search(ctx, query) {
		if err != nil && ctx.Err() != nil {
			return nil
		}
		if err != nil {
			return err
		}
		if s.Found = append(s.Found, found); len(s.Found) == maxFound {
			s.Read = s.Size - found.Index
			return nil
		}
	}
	s.Read, s.Whole = s.Size, true
	return nil
}

// shown is a certificate in a log.
type shown struct {
	*reader.Found
	Log      Log
	Sigstore certs.Extensions
	Chain    *ca.Chain // nil if no authority of the trust bundle signed it
}

func (p *pages) certificate(w http.ResponseWriter, r *http.Request) {
	var s shown
	form := r.URL.Query()
	index, err := strconv.ParseUint(form.Get("index"), 10, 40)
	if err == nil {
		err = p.read(r.Context(), form.Get("log"), func(ctx context.Context, log Log, from *reader.Source) (err error) {
			s.Log, from.Index, from.Head.Size = log, nil, min(from.Head.Size, index+1) // the entry is the newest one then
			for s.Found, err = range from.Search(ctx, reader.Query{}) {
				break
			}
			return err
		})
	}
	if err != nil || s.Found == nil || s.Index != index {
		p.show(w, http.StatusNotFound, "problem", view{Title: "Problem", Data: err})
		return
	}
	s.Sigstore, _ = certs.ParseExtensions(s.Certificate.Extensions) // the search has done the same
	for _, chain := range p.Chains() {
		if s.Certificate.CheckSignatureFrom(chain.Certificates[0]) == nil {
			s.Chain = chain
		}
	}
	if !form.Has("pem") {
		p.show(w, http.StatusOK, "certificate", view{Title: "Certificate", Data: &s})
		return
	}
	w.Header().Set("Content-Type", "application/pem-certificate-chain")
	w.Header().Set("Content-Disposition", fmt.Sprintf(`attachment; filename="entry-%d.pem"`, index))
	_ = pem.Encode(w, &pem.Block{Type: "CERTIFICATE", Bytes: s.DER}) // an error means that the browser has disconnected
	if s.Chain != nil {
		fmt.Fprintln(w, strings.Join(s.Chain.PEM, "\n"))
	}
}
