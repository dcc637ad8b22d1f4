// SPDX-License-Identifier: Apache-2.0

package main

import (
	"cmp"
	"crypto/x509"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/mayfly-ca/mayfly/app/keyring"
	"github.com/mayfly-ca/mayfly/ca/ceremony"
	"github.com/mayfly-ca/mayfly/ca/set"
	"github.com/mayfly-ca/mayfly/config"
	"github.com/mayfly-ca/mayfly/internal/printable"
)

// setFlags are the flags of the commands that read or edit a CA set.
type setFlags struct {
	set, config string
	minimumLead time.Duration
	force       bool
	at          time.Time // zero for now, or for the default
	out         output
}

// readFlags adds the flag that names the set.
func (f *setFlags) readFlags(c *cobra.Command) {
	c.Flags().StringVar(&f.set, "set", "", "the CA set: ca.yaml, or the folder that holds it (default: ca.set of --config, else ca.yaml here)")
	addConfig(c, &f.config, "the server's configuration file, whose ca.set is meant")
	addOutput(c, &f.out)
}

// editFlags adds the other flags of an edit.
func (f *setFlags) editFlags(c *cobra.Command) {
	f.readFlags(c)
	c.Flags().DurationVar(&f.minimumLead, "minimum-lead", set.PublicationLead, "how long an authority must be published before it signs")
	c.Flags().BoolVar(&f.force, "force", false, "do it though it breaks verifiers or stops issuance")
}

// named is the flag that names the set, as the caller gave it.
func (f *setFlags) named() string {
	if f.config != "" {
		return "--config " + f.config
	}
	return "--set " + cmp.Or(f.set, "ca.yaml")
}

// server returns the configuration of --config, or one that names the set alone.
func (f *setFlags) server() (*config.Server, error) {
	switch {
	case f.set != "" && f.config != "":
		return nil, usageError{errors.New("--set and --config exclude each other")}
	case f.config != "":
		cfg, _, err := config.LoadServer(f.config, os.Environ())
		return cfg, err
	}
	path := setFile(cmp.Or(f.set, "ca.yaml"))
	if _, err := os.Stat(path); err != nil {
		return nil, fmt.Errorf("finding the CA set: %w; name it with --set, or mayfly.yaml with --config (mayfly ca init creates one)", err)
	}
	return &config.Server{CA: config.CA{Set: path}}, nil
}

// read reads the set without its keys, at the time that it returns.
func (f *setFlags) read() (loaded *set.Loaded, at time.Time, err error) {
	if at = f.at; at.IsZero() {
		at = time.Now()
	}
	cfg, err := f.server()
	if err == nil {
		loaded, err = set.Read(cfg, at)
	}
	return loaded, at, err
}

// setFile is the CA set that path names: ca.yaml in a folder, or the file itself.
func setFile(path string) string {
	if info, err := os.Stat(path); err == nil && info.IsDir() {
		return filepath.Join(path, "ca.yaml")
	}
	return path
}

func (f *setFlags) editor() (set.Editor, error) {
	cfg, err := f.server()
	switch {
	case err != nil:
		return set.Editor{}, err
	case cfg.CA.Set == "":
		err = fmt.Errorf("%s names no CA set under ca.set; with ca.file there is one authority, and nothing to rotate", f.config)
	case f.minimumLead < 0:
		err = usageError{errors.New("--minimum-lead must not be negative")}
	}
	return set.Editor{Path: cfg.CA.Set, Now: time.Now(), Lead: f.minimumLead, Force: f.force, Ring: keyring.New(keyring.Config{})}, err
}

// print shows what an edit did and what the set will do.
func (f *setFlags) print(c *cobra.Command, result *set.Result, done ...string) error {
	for _, forced := range result.Forced {
		printable.Fprintf(c.ErrOrStderr(), "mayfly: warning: forced: %v\n", forced)
	}
	for _, line := range append(done, "") {
		if !f.out.json() {
			printable.Fprintf(c.OutOrStdout(), "%s\n", line)
		}
	}
	return f.printStatus(c, result.StatusAt(time.Now()))
}

func (f *setFlags) printStatus(c *cobra.Command, status set.Status) error {
	if f.out.json() {
		return printJSON(c.OutOrStdout(), status)
	}
	var text strings.Builder
	if err := status.Write(&text); err != nil {
		return err
	}
	return paint(c.OutOrStdout(), text.String(), colour{`^(\S+ +)(active)\b`, green}, colour{`^(\S+ +)(published|staged)\b`, yellow},
		colour{`^(\S+ +)(compromised|expired)\b`, red}, colour{`^()(Warnings:)$`, yellow})
}

// complete offers the authorities of the set for an ID. It opens no key.
func (f *setFlags) complete(_ *cobra.Command, args []string, _ string) (ids []cobra.Completion, _ cobra.ShellCompDirective) {
	if loaded, now, err := f.read(); err == nil && len(args) == 0 {
		for _, m := range loaded.Set.Members() {
			ids = append(ids, cobra.CompletionWithDesc(m.ID, m.StateAt(now).String()))
		}
	}
	return ids, cobra.ShellCompDirectiveNoFileComp
}

// parseDuration is time.ParseDuration, and also reads whole days such as 3d.
func parseDuration(text string) (time.Duration, error) {
	if days, ok := strings.CutSuffix(text, "d"); ok {
		n, err := strconv.ParseInt(days, 10, 16)
		return time.Duration(n) * 24 * time.Hour, err
	}
	return time.ParseDuration(text)
}

// timeFlag is the value of a flag: RFC 3339, "now", or a duration from now such as +3d or -2h, and
// with ago also one in the past without a sign. "" is the zero time.
type timeFlag struct {
	to  *time.Time
	ago bool
}

func addTime(c *cobra.Command, t *time.Time, name, usage string) {
	c.Flags().Var(&timeFlag{to: t}, name, usage)
}

func (t *timeFlag) Type() string   { return "time" }
func (t *timeFlag) String() string { return "" }

func (t *timeFlag) Set(text string) error {
	when, err := time.Parse(time.RFC3339, text)
	offset, offsetErr := parseDuration(text)
	signed := strings.HasPrefix(text, "+") || strings.HasPrefix(text, "-")
	switch {
	case text == "":
		when, err = time.Time{}, nil
	case text == "now":
		when, err = time.Now(), nil
	case offsetErr == nil && signed:
		when, err = time.Now().Add(offset), nil
	case offsetErr == nil && t.ago:
		when, err = time.Now().Add(-offset), nil
	}
	switch {
	case err != nil && t.ago:
		return errors.New("it should be a time such as 2026-11-08T00:00:00Z, or how long ago, such as 24h or 7d")
	case err != nil:
		return errors.New("it should be a time such as 2026-11-08T00:00:00Z, a duration from now such as +3d, +36h or -2h, or now")
	}
	*t.to = when
	return nil
}

// organizationOf returns the organization of a CA certificate; "" for none.
func organizationOf(c *x509.Certificate) string {
	return strings.Join(c.Subject.Organization[:min(len(c.Subject.Organization), 1)], "")
}

// withDefaults completes the subject of the intermediate id below a CA of organization.
func withDefaults(subject ceremony.Subject, organization, id string) ceremony.Subject {
	subject.Organization = cmp.Or(subject.Organization, organization)
	subject.CommonName = cmp.Or(subject.CommonName, subject.Organization+" intermediate "+id)
	return subject
}
