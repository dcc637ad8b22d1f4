// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/mayfly-ca/mayfly/config"
	"github.com/mayfly-ca/mayfly/ctlog/embedded"
	"github.com/mayfly-ca/mayfly/ctlog/reader"
	"github.com/mayfly-ca/mayfly/internal/keypath"
	"github.com/mayfly-ca/mayfly/internal/printable"
)

func ctlogCommand() *cobra.Command {
	c := &cobra.Command{
		Use:   "ctlog",
		Short: "Create, check and search the embedded Certificate Transparency log",
		Long: `Work with a log that mayfly serve runs itself (ct.logs: [{embedded: …}]). All commands read
the log's settings from the server's configuration. Where that has several logs, --name names
one. docs/ctlog.md explains how to run such a log.`,
		Example: "  mayfly ctlog status --config mayfly.yaml --name 2026",
	}
	c.AddCommand(ctlogInitCommand(), ctlogStatusCommand(), ctlogFsckCommand(), ctlogSearchCommand())
	return c
}

// logCommand completes a command that works with one log.
func logCommand(c *cobra.Command, run func(*cobra.Command, embedded.Config) error) *cobra.Command {
	var configFile, name string
	c.RunE = func(c *cobra.Command, _ []string) error {
		cfg, _, err := config.LoadServer(configFile, os.Environ())
		if err != nil {
			return err
		}
		i, err := selectLog(cfg, configFile, name)
		if err != nil {
			return err
		}
		err = run(c, *cfg.CT.Logs[i].Embedded)
		if errors.As(err, new(*keypath.Error)) { // of a setting; an error of the log itself has no place in the file
			err = cfg.WithPlaces(keypath.Prefix(err, "ct", "logs", strconv.Itoa(i), "embedded"))
		}
		return err
	}
	addConfig(c, &configFile, "the server's configuration file (required)")
	c.Flags().StringVar(&name, "name", "", "the log's name, where there are several")
	completeFrom(c, "name", func(cfg *config.Server) (names []string) {
		for _, entry := range cfg.CT.Logs {
			if entry.Embedded != nil {
				names = append(names, entry.Embedded.Name)
			}
		}
		return names
	})
	require(c, "config")
	return c
}

// selectLog returns the index of the log called name, or of the only embedded one.
func selectLog(cfg *config.Server, configFile, name string) (index int, err error) {
	var names []string
	index = -1
	for i, entry := range cfg.CT.Logs {
		if entry.Embedded != nil {
			names = append(names, entry.Embedded.Name)
			if name == "" || name == entry.Embedded.Name {
				index = i
			}
		}
	}
	switch {
	case len(names) == 0:
		return 0, fmt.Errorf("%s has no embedded log under ct.logs; write one there first", configFile)
	case index < 0:
		return 0, fmt.Errorf("%s has no embedded log %q; it has %s", configFile, name, strings.Join(names, ", "))
	case name == "" && len(names) > 1:
		return 0, usageError{fmt.Errorf("--name is required, since there are several logs: %s", strings.Join(names, ", "))}
	}
	return index, nil
}

func ctlogInitCommand() *cobra.Command {
	var out output
	c := logCommand(&cobra.Command{
		Use:   "init",
		Short: "Create a new log: its key, directory and guard",
		Long: `Create the log that the configuration names: a P-256 key of its own (PKCS#8, mode 0600), its
directory and its guard. No other command creates a log, and nothing that exists is changed.
It prints the public key: verifiers need it before the first use of the log.`,
		Example: "  mayfly ctlog init --config mayfly.yaml --name 2026 > ctlog-2026.pub",
	}, func(c *cobra.Command, log embedded.Config) error {
		log.Now = time.Now
		created, err := embedded.Init(c.Context(), log)
		if err != nil {
			return err
		}
		if out.json() {
			return printJSON(c.OutOrStdout(), map[string]any{"name": log.Name, "origin": created.Origin, "log_id": created.LogID[:], "public_key": string(created.PublicKey)})
		}
		printable.Fprintf(c.ErrOrStderr(), "Created log %s (%s): directory %s, guard %s, key %s, log ID %x.\nIts public key:\n",
			log.Name, created.Origin, log.Dir, log.Guard, log.Key, created.LogID)
		_, err = c.OutOrStdout().Write(created.PublicKey)
		return err
	})
	addOutput(c, &out)
	return c
}

func ctlogStatusCommand() *cobra.Command {
	var out output
	c := logCommand(&cobra.Command{
		Use:   "status",
		Short: "Print a log's state, and what to do if it takes no entry",
		Long: `Print the state of a log, in use or not: what is published, the state of the guard, which
process writes it, and whether it would take an entry now. The exit code is 1 if it would not.`,
		Example: "  mayfly ctlog status --config mayfly.yaml",
	}, func(c *cobra.Command, log embedded.Config) error {
		in, err := embedded.Inspect(c.Context(), log)
		if err == nil {
			err = printInspection(c.OutOrStdout(), in, out.json())
		}
		if err == nil && in.Err != nil {
			err = coded{in.Err, 1}
		}
		return err
	})
	addOutput(c, &out)
	return c
}

func printInspection(out io.Writer, in *embedded.Inspection, asJSON bool) error {
	if asJSON {
		return printJSON(out, struct {
			*embedded.Inspection
			Error string `json:"error,omitempty"`
		}{in, errorText(in.Err)})
	}
	now := time.Now()
	when := func(t time.Time) string { return t.UTC().Format(time.RFC3339) + ", " + printable.Relative(t, now) }
	at := func(n uint64, t time.Time) string { return fmt.Sprintf("%d at %s", n, when(t)) }
	w := newTable(out)
	w.row("Log", in.Name+" ("+in.Origin+")")
	w.row("Log ID", fmt.Sprintf("%x", in.LogID))
	w.row("Entries", in.TreeSize)
	w.row("Published", at(in.CheckpointSize, in.CheckpointTime))
	w.row("Guard", at(in.GuardSize, in.GuardTime))
	if in.Holder != nil {
		w.row("Written by", fmt.Sprintf("process %d on %s since %s", in.Holder.PID, in.Holder.Host, when(in.Holder.Since)))
	} else {
		w.row("Written by", "nobody")
	}
	w.row("Free on disk", fmt.Sprintf("%d MiB", in.FreeBytes>>20))
	for _, warning := range in.Warnings {
		w.row("Warning", warning)
	}
	if in.Err == nil {
		w.row("State", "ready")
	} else {
		w.row("State", "takes no entry")
	}
	return w.Flush()
}

func ctlogFsckCommand() *cobra.Command {
	var out output
	c := logCommand(&cobra.Command{
		Use:     "fsck",
		Short:   "Prove a whole log: every entry, tile and issuer, and that it continues checkpoint and guard",
		Example: "  mayfly ctlog fsck --config mayfly.yaml",
	}, func(c *cobra.Command, log embedded.Config) error {
		p := newProgress(c, "checking log "+log.Name)
		log.Progress = p.report
		size, err := embedded.Fsck(c.Context(), log)
		p.clear()
		if err != nil && c.Context().Err() == nil {
			err = coded{err, 1} // missing files are findings too
		}
		if out.json() {
			return errors.Join(printJSON(c.OutOrStdout(), map[string]any{"log": log.Name, "entries": size, "error": errorText(err)}), err)
		}
		if err == nil {
			_, err = printable.Fprintf(c.OutOrStdout(), "Log %s is whole: %d entries, and they continue its checkpoint and its guard.\n", log.Name, size)
		}
		return err
	})
	addOutput(c, &out)
	return c
}

// ctlogSearch is the flags of `mayfly ctlog search`.
type ctlogSearch struct {
	query  reader.Query
	serial string
	limit  int
	out    output
}

func ctlogSearchCommand() *cobra.Command {
	var s ctlogSearch
	c := logCommand(&cobra.Command{
		Use:   "search",
		Short: "Find certificates by identity, issuer or serial number, newest first",
		Long: `Find out which certificates bear a name: list the certificates in a log, newest first, also
while it is in use. Without a filter all are listed, up to --limit. With -o json, each is a JSON
object in one line.`,
		Example: `  mayfly ctlog search --config mayfly.yaml --identity person@example.com
  mayfly ctlog search --config mayfly.yaml --issuer https://token.actions.githubusercontent.com -o json`,
	}, s.run)
	f := c.Flags()
	f.StringVar(&s.query.Identity, "identity", "", "the certificate's name, exactly: an email address, a URI or user!domain")
	f.StringVar(&s.query.Issuer, "issuer", "", "the issuer of the ID token, exactly")
	f.StringVar(&s.serial, "serial", "", "the serial number in hexadecimal")
	addTime(c, &s.query.Since, "since", "only those that were logged at this time or later; a duration such as -2h is from now")
	f.IntVar(&s.limit, "limit", 100, "how many to list at most; 0 lists all")
	completeFrom(c, "issuer", func(cfg *config.Server) (urls []string) {
		if issuers, _, err := config.LoadIssuers(cfg.Issuers, cfg.Compat, nil); err == nil {
			for _, entry := range issuers.OIDCIssuers {
				urls = append(urls, entry.IssuerURL)
			}
		}
		return urls
	})
	addOutput(c, &s.out)
	return c
}

// foundCertificate is a line of `mayfly ctlog search -o json`. Its keys are stable.
type foundCertificate struct {
	Index     uint64    `json:"index"`
	Timestamp time.Time `json:"timestamp"`
	Identity  reportSAN `json:"subjectAlternativeName"`
	Issuer    string    `json:"issuer"`
	Serial    string    `json:"serialNumber"`
	IssuedBy  string    `json:"issuedBy"`
	DER       []byte    `json:"der"`
}

func (s *ctlogSearch) run(c *cobra.Command, log embedded.Config) (err error) {
	if s.serial != "" {
		if s.query.Serial, err = hex.DecodeString(strings.ReplaceAll(s.serial, ":", "")); err != nil || len(s.query.Serial) == 0 {
			return usageError{fmt.Errorf("--serial %q is no hexadecimal number", s.serial)}
		}
	}
	source, err := embedded.Source(log)
	if err != nil {
		return err
	}
	w := newTable(c.OutOrStdout())
	if !s.out.json() {
		w.row("INDEX", "LOGGED", "IDENTITY", "ISSUER", "SERIAL")
	}
	count := 0
	for found, err := range source.Search(c.Context(), s.query) {
		if err != nil {
			return errors.Join(err, w.Flush())
		}
		row := foundCertificate{
			Index: found.Index, Timestamp: found.Timestamp.UTC(),
			Identity: reportSAN{Type: describeKind(found.SAN.Kind), Value: found.SAN.Value},
			Issuer:   found.Issuer,
			Serial:   hex.EncodeToString(found.Certificate.SerialNumber.Bytes()),
			IssuedBy: found.Certificate.Issuer.String(),
			DER:      found.DER,
		}
		if !s.out.json() {
			w.row(row.Index, row.Timestamp.Format(time.RFC3339), row.Identity.Value, row.Issuer, row.Serial)
		} else if err := json.NewEncoder(c.OutOrStdout()).Encode(row); err != nil {
			return err
		}
		if count++; count == s.limit {
			break
		}
	}
	return w.Flush()
}
