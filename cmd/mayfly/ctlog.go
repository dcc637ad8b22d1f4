// SPDX-License-Identifier: Apache-2.0

package main

import (
	"cmp"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/mayfly-ca/mayfly/config"
	"github.com/mayfly-ca/mayfly/ctlog"
	"github.com/mayfly-ca/mayfly/ctlog/embedded"
	"github.com/mayfly-ca/mayfly/ctlog/reader"
	"github.com/mayfly-ca/mayfly/internal/keypath"
	"github.com/mayfly-ca/mayfly/internal/printable"
)

func ctlogCommand() *cobra.Command {
	c := &cobra.Command{
		Use:   "ctlog",
		Short: "Create, check and copy the embedded Certificate Transparency log, and search any log",
	}
	c.AddCommand(ctlogInitCommand(), ctlogStatusCommand(), ctlogFsckCommand(), ctlogCopyCommand(), ctlogSearchCommand())
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
	completeFrom(c, "name", func(cfg *config.Server) []string { return slices.Sorted(maps.Keys(embeddedLogs(cfg))) })
	require(c, "config")
	return c
}

// embeddedLogs returns the indexes of the embedded logs by their names.
func embeddedLogs(cfg *config.Server) map[string]int {
	logs := map[string]int{}
	for i, entry := range cfg.CT.Logs {
		if entry.Embedded != nil {
			logs[entry.Embedded.Name] = i
		}
	}
	return logs
}

// selectLog returns the index of the log called name, or of the only embedded one.
func selectLog(cfg *config.Server, configFile, name string) (index int, err error) {
	logs := embeddedLogs(cfg)
	names := slices.Sorted(maps.Keys(logs))
	if len(names) == 0 {
		return 0, fmt.Errorf("%s has no embedded log under ct.logs; write one there first", configFile)
	}
	if name == "" && len(names) > 1 {
		return 0, usageError{fmt.Errorf("--name is required, since there are several logs: %s", strings.Join(names, ", "))}
	}
	index, found := logs[cmp.Or(name, names[0])]
	if !found {
		return 0, fmt.Errorf("%s has no embedded log %q; it has %s", configFile, name, strings.Join(names, ", "))
	}
	return index, nil
}

func ctlogInitCommand() *cobra.Command {
	var out output
	c := logCommand(&cobra.Command{
		Use:   "init",
		Short: "Create a new log: its key, directory and guard",
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
	at := func(n uint64, t time.Time) string {
		if t.IsZero() {
			return "none"
		}
		return fmt.Sprintf("%d at %s", n, when(t))
	}
	holder, state := "nobody", "ready"
	if in.Holder != nil {
		holder = fmt.Sprintf("process %d on %s since %s", in.Holder.PID, in.Holder.Host, when(in.Holder.Since))
	}
	if in.Err != nil {
		state = "takes no entry"
	}
	w := newTable(out)
	w.row("Log", in.Name+" ("+in.Origin+")")
	w.row("Log ID", fmt.Sprintf("%x", in.LogID))
	w.row("Entries", in.TreeSize)
	w.row("Published", at(in.CheckpointSize, in.CheckpointTime))
	w.row("Guard", at(in.GuardSize, in.GuardTime))
	w.row("Written by", holder)
	w.row("Free on disk", fmt.Sprintf("%d MiB", in.FreeBytes>>20))
	for _, warning := range in.Warnings {
		w.row("Warning", warning)
	}
	w.row("State", state)
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
		text := ""
		switch {
		case err == nil:
			text = fmt.Sprintf("Log %s is whole: %d entries, and they continue its checkpoint and its guard.\n", log.Name, size)
		case c.Context().Err() != nil:
			err = errStopped
		default:
			err = coded{err, 1} // missing files are findings too
		}
		return errors.Join(out.print(c, map[string]any{"log": log.Name, "entries": size, "error": errorText(err)}, text), err)
	})
	addOutput(c, &out)
	return c
}

func ctlogCopyCommand() *cobra.Command {
	var out output
	c := logCommand(&cobra.Command{
		Use:   "copy DIR",
		Short: "Copy a log for a backup, also while a server writes it, and prove the copy",
	}, func(c *cobra.Command, log embedded.Config) error {
		to := c.Flags().Arg(0)
		p := newProgress(c, "checking the copy of log "+log.Name)
		log.Progress = p.report
		size, err := embedded.Copy(c.Context(), log, to)
		p.clear()
		if err != nil {
			return err
		}
		return out.print(c, map[string]any{"log": log.Name, "entries": size, "copy": to},
			fmt.Sprintf("Copied log %s to %s: %d entries, and the copy is whole. No server signs for it, since it has no guard.\n", log.Name, to, size))
	})
	addOutput(c, &out)
	return c
}

// ctlogSearch is the flags of `mayfly ctlog search`.
type ctlogSearch struct {
	query     reader.Query
	url, key  string
	limit     int
	failEmpty bool
	noIndex   bool
	out       output
}

func ctlogSearchCommand() *cobra.Command {
	var s ctlogSearch
	c := logCommand(&cobra.Command{
		Use:   "search",
		Short: "Find certificates by identity, issuer or serial number, newest first",
	}, func(c *cobra.Command, log embedded.Config) error {
		source, err := embedded.Source(log)
		if err != nil {
			return err
		}
		if s.noIndex {
			source.Index = nil
		}
		return s.search(c, source)
	})
	searchDirectory := c.RunE
	c.Annotations = nil // --config is not required
	c.Flag("config").Usage = "the server's configuration file, for a log of this server"
	c.RunE = func(c *cobra.Command, args []string) error {
		switch given := c.Flags().Changed; {
		case given("config") == given("url"):
			return usageError{errors.New("exactly one of --config and --url is required; see mayfly ctlog search --help")}
		case given("config") && given("public-key"), given("url") && given("name"), given("url") && given("no-index"):
			return usageError{errors.New("--public-key is for --url, --name and --no-index for --config")}
		case !s.query.Until.IsZero() && s.query.Until.Before(s.query.Since):
			return usageError{errors.New("--until is before --since, so that no certificate can match; 24h is longer ago than 1h")}
		case s.query.Since.After(time.Now()):
			return usageError{errors.New("--since is in the future, so that no certificate can match; 24h is 24 hours ago")}
		case s.limit < 0:
			return usageError{fmt.Errorf("--limit: found %d, expected how many to list at most, or 0 for all", s.limit)}
		case given("config"):
			return searchDirectory(c, args)
		}
		return s.searchURL(c)
	}
	s.addFlags(c)
	completeFrom(c, "issuer", func(cfg *config.Server) (urls []string) {
		if issuers, _, err := config.LoadIssuers(cfg.Issuers, cfg.Compat, nil); err == nil {
			for _, entry := range issuers.OIDCIssuers {
				urls = append(urls, entry.IssuerURL)
			}
		}
		return urls
	})
	return c
}

func (s *ctlogSearch) addFlags(c *cobra.Command) {
	f := c.Flags()
	f.StringVar(&s.url, "url", "", "the URL of a log: the monitoring prefix of static-ct-api, or what is before /ct/v1")
	f.StringVar(&s.key, "public-key", "", "file with the log's public key, PEM: verify the signature of its tree head")
	f.StringVar(&s.query.Identity, "identity", "", "the certificate's name: an email address, a URI or user!domain; a * stands for any text")
	f.StringVar(&s.query.Issuer, "issuer", "", "the issuer of the ID token; a * stands for any text")
	addSerial(c, &s.query.Serial)
	f.Var(&timeFlag{&s.query.Since, true}, "since", "only those that were logged at this time or later; 24h is 24 hours ago")
	f.Var(&timeFlag{&s.query.Until, true}, "until", "only those that were logged at this time or earlier; 1h is an hour ago")
	f.IntVar(&s.limit, "limit", 100, "how many to list at most; 0 lists all")
	f.BoolVar(&s.noIndex, "no-index", false, "read every entry: do not rely on the search index in the log's directory")
	f.BoolVar(&s.failEmpty, "fail-empty", false, "exit with 1 if nothing is found")
	addOutput(c, &s.out)
}

// searchURL searches a log over HTTP.
func (s *ctlogSearch) searchURL(c *cobra.Command) error {
	log := reader.Config{URL: s.url}
	if s.key != "" {
		text, err := readInput(c.InOrStdin(), s.key)
		if err == nil {
			log.Key, err = ctlog.ParsePublicKey(text)
		}
		if err != nil {
			return coded{err, 3}
		}
	}
	source, warnings, err := reader.Open(c.Context(), log)
	if errors.As(err, new(*keypath.Error)) {
		return usageError{fmt.Errorf("--%w", err)}
	}
	if err != nil {
		return coded{err, 3}
	}
	for _, warning := range warnings {
		printable.Fprintf(c.ErrOrStderr(), "Warning: %v\n", warning)
	}
	note := fmt.Sprintf("The log has %d entries. Nothing that it answers is verified; --public-key verifies its tree head.", source.Head.Size)
	if log.Key != nil {
		note = fmt.Sprintf("The log signed its tree of %d entries at %s. That the entries below are in that tree is not verified.",
			source.Head.Size, source.Signed.Format(time.RFC3339))
	}
	fmt.Fprintln(c.ErrOrStderr(), note)
	return s.search(c, source)
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

func (s *ctlogSearch) search(c *cobra.Command, source *reader.Source) error {
	w := newTable(c.OutOrStdout())
	if !s.out.json() {
		w.row("INDEX", "LOGGED", "IDENTITY", "ISSUER", "SERIAL")
	}
	count := 0
	p := newProgress(c, "searching the log")
	if !s.out.json() || terminal(c.OutOrStdout()) == nil { // otherwise the results appear there
		s.query.Progress = p.report
	}
	s.query.Unindexed = func(err error) {
		p.clear()
		printable.Fprintf(c.ErrOrStderr(), "Warning: the next search reads these entries again: %v\n", err)
	}
	for found, err := range source.Search(c.Context(), s.query) {
		if err != nil && s.url != "" {
			err = coded{err, 3} // not to be taken for an empty result
		}
		if err != nil {
			p.clear()
			return errors.Join(err, w.Flush())
		}
		row := foundCertificate{
			Index: found.Index, Timestamp: found.Timestamp, Identity: newReportSAN(found.SAN), Issuer: found.Issuer,
			Serial: hex.EncodeToString(found.Certificate.SerialNumber.Bytes()), IssuedBy: found.Certificate.Issuer.String(), DER: found.DER,
		}
		if !s.out.json() {
			w.row(row.Index, row.Timestamp.Format(time.RFC3339), row.Identity.Value, row.Issuer, row.Serial)
		} else if err := json.NewEncoder(c.OutOrStdout()).Encode(row); err != nil {
			return err
		}
		if count++; count == s.limit {
			printable.Fprintf(c.ErrOrStderr(), "The list ends after %d certificates; --limit 0 lists all.\n", count)
			break
		}
	}
	p.clear()
	none := errors.New("no certificate in the log matches; the whole name and issuer are compared, and a * stands for any text")
	switch err := w.Flush(); {
	case err != nil || count > 0:
		return err
	case s.failEmpty:
		return none
	}
	printable.Fprintf(c.ErrOrStderr(), "%v\n", none)
	return nil
}
