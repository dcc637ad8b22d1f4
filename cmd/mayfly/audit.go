// SPDX-License-Identifier: Apache-2.0

package main

import (
	"cmp"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/mayfly-ca/mayfly/app"
	"github.com/mayfly-ca/mayfly/audit"
	"github.com/mayfly-ca/mayfly/ctlog"
	"github.com/mayfly-ca/mayfly/ctlog/embedded"
	"github.com/mayfly-ca/mayfly/ctlog/reader"
	"github.com/mayfly-ca/mayfly/internal/files"
	"github.com/mayfly-ca/mayfly/internal/printable"
)

// maxListed bounds the certificates without an intent that are listed, and thus kept in memory.
const maxListed = 1000

func auditCommand() *cobra.Command {
	c := &cobra.Command{Use: "audit", Short: "Verify audit logs, and find records in them"}
	c.AddCommand(auditVerifyCommand(), auditShowCommand())
	return c
}

// auditResult is what `mayfly audit verify -o json` prints. Its keys, and those of what it holds, are stable.
type auditResult struct {
	Directories []*audit.Report `json:"directories"`
	// Missing are the heads that no directory has.
	Missing []string `json:"missingHeads,omitempty"`
	// Entries counts the entries of the log, Unrecorded those without an intent, and Earlier those without an
	// intent that are older than the audit logs. List has at most maxListed of the former.
	Entries    uint64             `json:"logEntries,omitempty"`
	Unrecorded int                `json:"logEntriesWithoutIntent,omitempty"`
	Earlier    int                `json:"logEntriesEarlier,omitempty"`
	List       []foundCertificate `json:"withoutIntent,omitempty"`
}

func auditVerifyCommand() *cobra.Command {
	var heads []string
	var log string
	var out output
	c := &cobra.Command{
		Use:   "verify DIR…",
		Short: "Prove that audit logs are whole, and that each certificate in a log has its record",
		RunE: func(c *cobra.Command, dirs []string) error {
			result, err := verifyAudit(c, dirs, heads, log)
			if err != nil {
				return coded{err, 3}
			}
			if out.json() {
				err = printJSON(c.OutOrStdout(), result)
			} else {
				result.print(c.OutOrStdout(), log)
			}
			problems := len(result.Missing) + result.Unrecorded
			for _, r := range result.Directories {
				problems += r.Broken
			}
			if err == nil && problems > 0 {
				err = coded{fmt.Errorf("the audit logs are not as they should be; problems: %d; docs/audit.md states what each means", problems), 1}
			}
			return err
		},
	}
	c.Flags().Func("head", "the `hash` of a record that must be there, as the server's log has it; repeat it for more", func(text string) error {
		if sum, err := hex.DecodeString(text); err != nil || len(sum) != 32 {
			return errors.New("it should be the 64 hexadecimal digits of a SHA-256")
		}
		heads = append(heads, strings.ToLower(text))
		return nil
	})
	c.Flags().StringVar(&log, "ctlog", "", "the URL of a log, or the directory of an embedded one: each entry must have its intent")
	addOutput(c, &out)
	return c
}

func verifyAudit(c *cobra.Command, dirs, heads []string, log string) (result auditResult, err error) {
	var source *reader.Source // opened before the audit logs, which then have the intents of all its entries
	if info, errStat := os.Stat(log); errStat == nil && info.IsDir() {
		source, err = embedded.Source(embedded.Config{Dir: log})
	} else if log != "" {
		source, _, err = reader.Open(c.Context(), reader.Config{URL: log})
	}
	if err != nil {
		return result, err
	}
	result.Missing = slices.Clone(heads)
	var begin time.Time
	for _, dir := range dirs {
		r, err := audit.Verify(c.Context(), dir, heads)
		if err != nil {
			return result, err
		}
		result.Directories = append(result.Directories, r)
		result.Missing = slices.DeleteFunc(result.Missing, func(head string) bool { return r.Found[head] > 0 })
		if begin.IsZero() || r.FirstTime.Before(begin) {
			begin = r.FirstTime
		}
	}
	if source == nil {
		return result, nil
	}
	result.Entries = source.Head.Size
	return result, app.CompareLog(c.Context(), source, dirs, func(e *reader.Entry) error {
		if ctlog.Time(e.Timestamp).Before(begin) {
			result.Earlier++
		} else if result.Unrecorded++; len(result.List) < maxListed {
			result.List = append(result.List, describeEntry(e))
		}
		return nil
	})
}

// describeEntry describes the certificate of a log's entry, as far as it can be read.
func describeEntry(e *reader.Entry) foundCertificate {
	found := foundCertificate{Index: e.Index, Timestamp: ctlog.Time(e.Timestamp), DER: e.Certificate}
	if certificate, err := x509.ParseCertificate(e.Certificate); err == nil {
		found.Serial, found.IssuedBy = hex.EncodeToString(certificate.SerialNumber.Bytes()), certificate.Issuer.String()
		if r, err := inspect(certificate); err == nil {
			found.Identity = r.SubjectAlternativeName
		}
	}
	return found
}

func (a *auditResult) print(w io.Writer, log string) {
	for _, r := range a.Directories {
		for _, note := range r.Notes {
			printable.Fprintf(w, "note: %s\n", note)
		}
		for _, finding := range r.Findings {
			printable.Fprintf(w, "broken: %s\n", finding)
		}
		state := fmt.Sprintf("whole to %d; a missing tail cannot be excluded", r.Head.Sequence)
		if r.Broken > 0 {
			state = fmt.Sprintf("broken; places: %d", r.Broken)
		} else if len(r.Found) > 0 {
			state = fmt.Sprintf("whole to %d; a missing tail after %d cannot be excluded", r.Head.Sequence, slices.Max(slices.Collect(maps.Values(r.Found))))
		}
		printable.Fprintf(w, "%s: %s\n  record %d at %s to record %d at %s, head %s\n  files: %d, intents: %d, outcomes: %d, denials: %d\n", r.Dir, state,
			r.First, r.FirstTime.Format(time.RFC3339), r.Head.Sequence, r.LastTime.Format(time.RFC3339), r.Head.Hash,
			r.Files, r.Kinds[audit.KindIntent], r.Kinds[audit.KindOutcome], r.Kinds[audit.KindDenial])
	}
	for _, head := range a.Missing {
		printable.Fprintf(w, "broken: no record has the hash %s: it was changed, or the tail with it is missing\n", head)
	}
	for _, u := range a.List {
		printable.Fprintf(w, "no intent: entry %d at %s, serial %s, %s, issued by %s\n", u.Index, u.Timestamp.Format(time.RFC3339), u.Serial, u.Identity.Value, u.IssuedBy)
	}
	if log != "" {
		printable.Fprintf(w, "%s: %d entries, %d without an intent, %d more from before the audit logs begin\n", log, a.Entries, a.Unrecorded, a.Earlier)
	}
}

func auditShowCommand() *cobra.Command {
	var q audit.Query
	var key string
	var serial []byte
	var out output
	c := &cobra.Command{
		Use:   "show DIR…",
		Short: "Find records by time, identity, issuer, serial number or reason, oldest first",
		RunE: func(c *cobra.Command, dirs []string) (err error) {
			if key != "" {
				if q.Key, _, err = files.ReadSecretLine(key, "the key of identity: hmac"); err != nil {
					return coded{err, 3}
				}
			}
			q.Serial = hex.EncodeToString(serial)
			return showAudit(c, dirs, q, out.json())
		},
	}
	f := c.Flags()
	f.StringVar(&q.Identity, "identity", "", "the certificate's name: an email address, a URI or user!domain; a * stands for any text")
	f.StringVar(&key, "hmac-key-file", "", "file with the key of identity: hmac; --identity is then a whole name")
	f.StringVar(&q.Issuer, "issuer", "", "the issuer of the ID token; a * stands for any text")
	f.StringVar(&q.Reason, "reason", "", "OK, or the reason of a refusal")
	f.StringVar(&q.Kind, "kind", "", "intent, outcome, denial, refusals, start, reload, rotation, shutdown or recovery")
	addSerial(c, &serial)
	f.Var(&timeFlag{&q.Since, true}, "since", "only records of this time or later; 24h is 24 hours ago")
	f.Var(&timeFlag{&q.Until, true}, "until", "only records of this time or earlier; 1h is an hour ago")
	addOutput(c, &out)
	return c
}

func showAudit(c *cobra.Command, dirs []string, q audit.Query, asJSON bool) error {
	w, count := newTable(c.OutOrStdout()), 0
	if !asJSON {
		w.row("TIME", "RECORD", "KIND", "REASON", "IDENTITY", "ISSUER", "SERIAL OR AUTHORITY")
	}
	for _, dir := range dirs {
		err := audit.Search(c.Context(), dir, q, func(r *audit.Record, line []byte) error {
			if count++; asJSON {
				_, err := c.OutOrStdout().Write(line)
				return err
			}
			reason := r.Reason
			for _, name := range slices.Sorted(maps.Keys(r.Refused)) {
				reason = strings.TrimPrefix(fmt.Sprintf("%s, %d %s", reason, r.Refused[name], name), ", ")
			}
			w.row(r.Time.Format(time.RFC3339), r.Sequence, r.Kind, cmp.Or(reason, r.Error), r.Identity, r.IssuerURL, cmp.Or(r.Serial, r.Authority))
			return nil
		})
		if err != nil {
			return errors.Join(coded{err, 3}, w.Flush())
		}
	}
	if count == 0 {
		fmt.Fprintln(c.ErrOrStderr(), "no record matches; the whole identity and issuer are compared, and a * stands for any text")
	}
	return w.Flush()
}
