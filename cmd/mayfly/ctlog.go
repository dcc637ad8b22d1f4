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
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/mayfly-ca/mayfly/app"
	"github.com/mayfly-ca/mayfly/certs"
	"github.com/mayfly-ca/mayfly/config"
	"github.com/mayfly-ca/mayfly/ctlog/embedded"
	"github.com/mayfly-ca/mayfly/internal/keypath"
	"github.com/mayfly-ca/mayfly/internal/printable"
)

func ctlogCommand() *cobra.Command {
	c := &cobra.Command{
		Use:   "ctlog",
		Short: "Make, check and search the embedded Certificate Transparency log",
		Long: `Work with a log that mayfly serve runs itself (ct.logs: [{embedded: …}]). All of them read
the log's settings from the server's configuration; --name tells which log is meant where
there are several. docs/ctlog.md explains how such a log is run.`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error { return c.Help() },
	}
	c.AddCommand(ctlogInitCommand(), ctlogStatusCommand(), ctlogFsckCommand(), ctlogSearchCommand())
	return c
}

// ctlogFlags select a log.
type ctlogFlags struct{ configFile, name string }

func (f *ctlogFlags) add(c *cobra.Command) {
	c.Flags().StringVar(&f.configFile, "config", "", "the server's configuration file (required)")
	c.Flags().StringVar(&f.name, "name", "", "the log's name, where there are several")
}

// configuredLog is a log's settings, and their place in the file.
type configuredLog struct {
	embedded.Config
	file *config.Server
	path []string
}

// explain adds the place in the file to an error about a setting. An error about the log itself has
// no place in the file.
func (l *configuredLog) explain(err error) error {
	if errors.As(err, new(*keypath.Error)) {
		return l.file.Explain(keypath.Prefix(err, l.path...))
	}
	return err
}

// log returns the selected log.
func (f *ctlogFlags) log() (*configuredLog, error) {
	if f.configFile == "" {
		return nil, usageError{errors.New("--config is required: it has the log's settings")}
	}
	cfg, _, err := config.LoadServer(f.configFile, os.Environ())
	if err != nil {
		return nil, err
	}
	var found []*configuredLog
	var names []string
	for i, entry := range cfg.CT.Logs {
		if entry.Embedded == nil {
			continue
		}
		names = append(names, entry.Embedded.Name)
		if f.name == "" || f.name == entry.Embedded.Name {
			found = append(found, &configuredLog{app.EmbeddedConfig(entry.Embedded), cfg, []string{"ct", "logs", strconv.Itoa(i), "embedded"}})
		}
	}
	switch {
	case len(names) == 0:
		return nil, fmt.Errorf("%s has no embedded log under ct.logs; write one there first", f.configFile)
	case len(found) == 0:
		return nil, fmt.Errorf("%s has no embedded log %q; it has %s", f.configFile, f.name, strings.Join(names, ", "))
	case len(found) > 1:
		return nil, usageError{fmt.Errorf("--name is required, since there are several logs: %s", strings.Join(names, ", "))}
	}
	return found[0], nil
}

func ctlogInitCommand() *cobra.Command {
	var f ctlogFlags
	c := &cobra.Command{
		Use:   "init",
		Short: "Make a new log: its key, directory and guard",
		Long: `Make the log that the configuration names: a P-256 key of its own (PKCS#8, mode 0600), its
directory and its guard. Nothing else ever makes a log, and nothing that exists is touched.
The public key is printed: verifiers need it before the log's first use.`,
		Example: "  mayfly ctlog init --config mayfly.yaml --name 2026 > ctlog-2026.pub",
		Args:    cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			log, err := f.log()
			if err != nil {
				return err
			}
			created, err := embedded.Init(c.Context(), embedded.Config{
				Name: log.Name, Dir: log.Dir, Guard: log.Guard, Key: log.Key, Origin: log.Origin, Now: time.Now,
			})
			if err != nil {
				return log.explain(err)
			}
			printable.Fprintf(c.ErrOrStderr(), "Log %s (%s) is made: directory %s, guard %s, key %s, log ID %x.\nIts public key:\n",
				log.Name, created.Origin, log.Dir, log.Guard, log.Key, created.LogID)
			_, err = c.OutOrStdout().Write(created.PublicKey)
			return err
		},
	}
	f.add(c)
	return c
}

func ctlogStatusCommand() *cobra.Command {
	var f ctlogFlags
	var asJSON bool
	c := &cobra.Command{
		Use:   "status",
		Short: "Tell a log's state, and what to do if it takes no entry",
		Long: `Tell the state of a log, in use or not: what is published, what the guard says, who writes
it, and whether it would take an entry now. The exit code is 1 if it would not.`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			log, err := f.log()
			if err != nil {
				return err
			}
			in, err := embedded.Inspect(c.Context(), log.Config)
			if err != nil {
				return log.explain(err)
			}
			if err := printInspection(c.OutOrStdout(), in, asJSON); err != nil {
				return err
			}
			return in.Err
		},
	}
	f.add(c)
	c.Flags().BoolVar(&asJSON, "json", false, "print JSON for a program")
	return c
}

func printInspection(out io.Writer, in *embedded.Inspection, asJSON bool) error {
	if asJSON {
		problem := ""
		if in.Err != nil {
			problem = in.Err.Error()
		}
		return printJSON(out, struct {
			*embedded.Inspection
			Error string `json:"error,omitempty"`
		}{in, problem})
	}
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	printable.Fprintf(w, "Log\t%s (%s)\n", in.Name, in.Origin)
	printable.Fprintf(w, "Log ID\t%x\n", in.LogID)
	printable.Fprintf(w, "Entries\t%d\n", in.TreeSize)
	printable.Fprintf(w, "Published\t%d at %s\n", in.CheckpointSize, in.CheckpointTime.UTC().Format(time.RFC3339))
	printable.Fprintf(w, "Guard\t%d at %s\n", in.GuardSize, in.GuardTime.UTC().Format(time.RFC3339))
	if in.Holder != nil {
		printable.Fprintf(w, "Written by\tprocess %d on %s since %s\n", in.Holder.PID, in.Holder.Host, in.Holder.Since.UTC().Format(time.RFC3339))
	} else {
		printable.Fprintf(w, "Written by\tnobody\n")
	}
	printable.Fprintf(w, "Free on disk\t%d MiB\n", in.FreeBytes>>20)
	for _, warning := range in.Warnings {
		printable.Fprintf(w, "Warning\t%s\n", warning)
	}
	if in.Err == nil {
		printable.Fprintf(w, "State\tready\n")
	} else {
		printable.Fprintf(w, "State\ttakes no entry\n")
	}
	return w.Flush()
}

func ctlogFsckCommand() *cobra.Command {
	var f ctlogFlags
	c := &cobra.Command{
		Use:   "fsck",
		Short: "Prove a whole log: every entry, tile and issuer, and that it continues checkpoint and guard",
		Args:  cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			log, err := f.log()
			if err != nil {
				return err
			}
			size, err := embedded.Fsck(c.Context(), log.Config)
			if err != nil {
				return log.explain(err)
			}
			_, err = printable.Fprintf(c.OutOrStdout(), "Log %s is whole: %d entries, and they continue its checkpoint and its guard.\n", log.Name, size)
			return err
		},
	}
	f.add(c)
	return c
}

// ctlogSearch is `mayfly ctlog search`.
type ctlogSearch struct {
	ctlogFlags
	query  embedded.Query
	serial string
	since  string
	limit  int
	asJSON bool
}

func ctlogSearchCommand() *cobra.Command {
	var s ctlogSearch
	c := &cobra.Command{
		Use:   "search",
		Short: "Find certificates by identity, issuer or serial number, newest first",
		Long: `Find out who got a certificate in somebody's name: list the certificates in a log, newest
first, also while it is in use. Without a filter all are listed, up to --limit.`,
		Example: `  mayfly ctlog search --config mayfly.yaml --identity person@example.com
  mayfly ctlog search --config mayfly.yaml --issuer https://token.actions.githubusercontent.com --json`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error { return s.run(c) },
	}
	s.add(c)
	f := c.Flags()
	f.StringVar(&s.query.Identity, "identity", "", "the certificate's name, exactly: an email address, a URI or user!domain")
	f.StringVar(&s.query.Issuer, "issuer", "", "the issuer of the ID token, exactly")
	f.StringVar(&s.serial, "serial", "", "the serial number in hexadecimal")
	f.StringVar(&s.since, "since", "", "only those that were logged at this time or later; a duration such as -2h is from now")
	f.IntVar(&s.limit, "limit", 100, "how many to list at most; 0 lists all")
	f.BoolVar(&s.asJSON, "json", false, "print one JSON object a line")
	return c
}

// foundCertificate is a line of `mayfly ctlog search --json`. Its keys are stable.
type foundCertificate struct {
	Index     uint64    `json:"index"`
	Timestamp time.Time `json:"timestamp"`
	Identity  reportSAN `json:"subjectAlternativeName"`
	Issuer    string    `json:"issuer"`
	Serial    string    `json:"serialNumber"`
	IssuedBy  string    `json:"issuedBy"`
	DER       []byte    `json:"der"`
}

func (s *ctlogSearch) run(c *cobra.Command) error {
	log, err := s.log()
	if err != nil {
		return err
	}
	if s.serial != "" {
		serial, err := hex.DecodeString(strings.ReplaceAll(s.serial, ":", ""))
		if err != nil || len(serial) == 0 {
			return usageError{fmt.Errorf("--serial %q is no hexadecimal number", s.serial)}
		}
		s.query.Serial = serial
	}
	if s.query.Since, err = parseTime("since", s.since); err != nil {
		return err
	}
	w := tabwriter.NewWriter(c.OutOrStdout(), 0, 0, 2, ' ', 0)
	if !s.asJSON {
		printable.Fprintf(w, "INDEX\tLOGGED\tIDENTITY\tISSUER\tSERIAL\n")
	}
	count := 0
	for found, err := range embedded.Search(c.Context(), log.Config, s.query) {
		if err != nil {
			return errors.Join(log.explain(err), w.Flush())
		}
		row := foundCertificate{
			Index: found.Index, Timestamp: found.Timestamp.UTC(),
			Identity: reportSAN{Type: describeKind(found.SAN.Kind), Value: found.SAN.Value},
			Issuer:   found.Extensions[certs.IssuerV2],
			Serial:   hex.EncodeToString(found.Certificate.SerialNumber.Bytes()),
			IssuedBy: found.Certificate.Issuer.String(),
			DER:      found.DER,
		}
		if s.asJSON {
			if err := json.NewEncoder(c.OutOrStdout()).Encode(row); err != nil {
				return err
			}
		} else {
			printable.Fprintf(w, "%d\t%s\t%s\t%s\t%s\n", row.Index, row.Timestamp.Format(time.RFC3339), row.Identity.Value, row.Issuer, row.Serial)
		}
		if count++; count == s.limit {
			break
		}
	}
	return w.Flush()
}
