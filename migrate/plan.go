// SPDX-License-Identifier: Apache-2.0

package migrate

import (
	"cmp"
	"maps"
	"net"
	"net/url"
	"path/filepath"
	"slices"
	"strings"
	"text/template"

	"go.yaml.in/yaml/v3"

	"github.com/mayfly-ca/mayfly/config"
	"github.com/mayfly-ca/mayfly/ctlog"
	"github.com/mayfly-ca/mayfly/internal/files"
	"github.com/mayfly-ca/mayfly/internal/httputil"
	"github.com/mayfly-ca/mayfly/internal/pem"
)

// Options state what to migrate.
type Options struct {
	// Flags is a command line of `fulcio serve`, ConfigFile a configuration file of Fulcio, and HelmValues the
	// values of its Helm chart. Exactly one is set.
	Flags, ConfigFile, HelmValues string
	// EnvFile has the variables of Fulcio's environment; "" for none.
	EnvFile string
	// Set are settings as NAME=VALUE, which override those of the source.
	Set []string
	// Root is a folder with a copy of Fulcio's file system, below which its files are read; "" for this machine's.
	Root string
	// CASet is a CA set that replaces Fulcio's authority; "" for none.
	CASet string
	// Ignore are paths of the chart's values that are not migrated.
	Ignore []string
	// Out is the directory for the results.
	Out string
}

// plan is a migration: what was read, and what it becomes. The templates use its exported part.
type plan struct {
	Options
	tables
	values     map[string]value
	helm       map[string]any // values of Fulcio's chart, by their paths below server
	mistakes   config.Mistakes
	unreadable error // a file of the command line

	Identities, Chain   []byte
	identityFile        string // for mistakes
	Insecure            []string
	Loopback, Cluster   bool
	Begin, KeyURI       string
	PKCS11              crypto11
	CTFiles             map[string]string // for mayfly's chart
	Compat              bool
	Tolerated, Warnings []string
	chartRows           []Row
	// Host, TLSSecret and IngressClass are those of the ingresses of Fulcio's chart.
	Host, TLSSecret, IngressClass string
	// InChart is set for what mayfly's chart mounts.
	InChart bool
}

// newPlan reads the source, and decides what it becomes.
func newPlan(o Options) (*plan, error) {
	t, err := readTables()
	p := &plan{Options: o, tables: t, values: map[string]value{}, helm: map[string]any{}, CTFiles: map[string]string{}, InChart: o.HelmValues != ""}
	flags := p.parseFlags(o.Flags)
	if name := cmp.Or(flags["config"], o.ConfigFile); name != "" {
		p.readConfig(name)
	}
	if o.HelmValues != "" {
		p.readChart(o.HelmValues)
	}
	if o.EnvFile != "" {
		p.readEnvironment(o.EnvFile)
	}
	delete(flags, "config")
	for _, name := range slices.Sorted(maps.Keys(flags)) { // they override the environment, and that the file
		p.set(name, flags[name], atFlag(name))
	}
	for _, setting := range o.Set {
		if name, text, found := strings.Cut(setting, "="); found {
			p.set(name, text, config.Mistake{File: "--set " + name})
		} else { // it may be a secret
			p.wrong(config.Mistake{File: "--set"}, "found no =, expected NAME=VALUE; NAME= is an empty value")
		}
	}
	for _, path := range o.Ignore {
		if !slices.ContainsFunc(p.chartRows, func(r Row) bool { return r.Setting == path }) {
			p.wrong(config.Mistake{File: "--ignore " + path}, "the values of the chart do not have it")
		}
	}
	if err = cmp.Or(p.unreadable, err); err == nil {
		p.readIssuers()
		p.readAuthority()
		p.readLog()
	}
	if (p.Text("grpc-tls-certificate") == "") != (p.Text("grpc-tls-key") == "") {
		p.wrongSetting("grpc-tls-certificate", "grpc-tls-certificate and grpc-tls-key belong together: one of them is missing")
	}
	return p, err
}

// Path returns the path of a setting as it is written: absolute, so that it depends on no folder.
func (p *plan) Path(name string) string {
	text := p.Text(name)
	if p.Root != "" {
		return filepath.Join("/", text)
	}
	absolute, err := filepath.Abs(text)
	if err != nil {
		return text
	}
	return absolute
}

// read returns the content of the file that a setting names, and checks it; nil after a mistake.
func (p *plan) read(name string, check func(content []byte) error) []byte {
	content, err := p.Chain, error(nil)
	if name != "kms-cert-chain-path" || p.Chain == nil { // otherwise it is in the values of a chart
		content, err = files.Read(filepath.Join(p.Root, p.Path(name)), maxFile)
	}
	if err != nil {
		p.wrongSetting(name, "%v; name a copy with --set %s=FILE, or the folder with all of Fulcio's files with --root", err, name)
		return nil
	}
	if err := check(content); err != nil {
		p.wrongSetting(name, "%s: %v", p.Text(name), err)
		return nil
	}
	return content
}

// readIssuers reads the identity file.
func (p *plan) readIssuers() {
	if p.identityFile == "" {
		p.identityFile = filepath.Join(p.Root, p.Path("config-path"))
		p.Identities = p.read("config-path", func([]byte) error { return nil })
	}
	parsed, _, err := config.ParseIssuers(p.identityFile, p.Identities, true, nil)
	if err != nil {
		return // the check of the result reports it
	}
	for _, entry := range parsed.Entries {
		u, err := url.Parse(entry.Key)
		if err == nil && u.Scheme == "http" && httputil.IsLoopback(u.Hostname()) {
			p.Loopback = true
		} else if err == nil && u.Scheme == "http" {
			p.Insecure = append(p.Insecure, u.Hostname())
		}
		p.Cluster = p.Cluster || strings.HasPrefix(entry.Key, "https://kubernetes.default.svc")
	}
	p.Insecure = slices.Compact(slices.Sorted(slices.Values(p.Insecure)))
}

// readLog reads the files of the log.
func (p *plan) readLog() {
	const key, authorities = "ct-log-public-key-path", "ct-log.tls-ca-cert"
	switch address := p.Text("ct-log-url"); {
	case address == "":
		return
	case p.Text(key) == "":
		p.wrongSetting(key, "the public key of the log %s is missing: mayfly verifies each SCT with it. Get the PEM file from the log's operator, or from your trusted_root.json "+
			"(ctlogs[].publicKey.rawBytes is the base64 between BEGIN PUBLIC KEY and END PUBLIC KEY), and name it with --set %s=FILE; --set ct-log-url= is for no log", address, key)
		return
	}
	p.CTFiles["log.pub"] = string(p.read(key, func(content []byte) error { _, err := ctlog.ParsePublicKey(content); return err }))
	if p.Text(authorities) != "" {
		p.CTFiles["log-ca.pem"] = string(p.read(authorities, func(content []byte) error { _, err := pem.Certificates(content); return err }))
	}
}

// Address returns the address of a listener. REST and gRPC on one port have one host. Brackets of IPv6 are Fulcio's.
func (p *plan) Address(port, host string) string {
	if p.Text(port) == p.Text("port") {
		host = "host"
	}
	return net.JoinHostPort(strings.Trim(p.Text(host), "[]"), p.Text(port))
}

// KeyAlgorithms returns mayfly's names of the key algorithms.
func (p *plan) KeyAlgorithms() (names []string) {
	for _, name := range strings.FieldsFunc(p.Text("client-signing-algorithms"), func(r rune) bool { return r == ',' || r == ' ' }) {
		names = append(names, p.Algorithms[name])
	}
	return names
}

// Inside returns a template as it is for mayfly's chart.
func (p plan) Inside(name string) (string, error) {
	p.InChart = true
	out, err := p.render(name)
	return string(out), err
}

// render executes a template.
func (p *plan) render(name string) ([]byte, error) {
	entry := func(key string, v any) (string, error) {
		out, err := yaml.Marshal(map[string]any{key: v})
		return strings.TrimSuffix(string(out), "\n"), err
	}
	flow := func(v any) (string, error) { // on one line
		var n yaml.Node
		err := n.Encode(v)
		n.Style |= yaml.FlowStyle
		out, errMarshal := yaml.Marshal(&n)
		return strings.TrimSpace(string(out)), cmp.Or(err, errMarshal)
	}
	indent := func(n int, text string) string {
		pad := strings.Repeat(" ", n)
		return pad + strings.ReplaceAll(strings.Trim(text, "\n"), "\n", "\n"+pad)
	}
	list := func(items ...string) []string { return items }
	parsed, err := template.New("").Funcs(template.FuncMap{"yaml": flow, "entry": entry, "indent": indent, "list": list, "code": code}).ParseFS(embedded, "templates/*")
	if err != nil {
		return nil, err
	}
	var out strings.Builder
	err = parsed.ExecuteTemplate(&out, name, p)
	return []byte(out.String()), err
}
