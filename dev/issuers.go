// SPDX-License-Identifier: Apache-2.0

package dev

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"maps"
	"os"
	"slices"
	"strings"

	"github.com/prometheus/client_golang/prometheus"
	"go.yaml.in/yaml/v3"

	"github.com/mayfly-ca/mayfly/app"
	"github.com/mayfly-ca/mayfly/internal/files"
	"github.com/mayfly-ca/mayfly/internal/watch"
)

// writtenLine begins the files that write writes.
const writtenLine = "# Written by mayfly dev at each start, unless it was edited.\n"

// write writes a file of the directory that people may edit, unless somebody has edited it since
// mayfly dev last wrote it. An edit stays in use if the new content would be the last one. Otherwise the
// two do not fit together, and the person decides.
func (w *World) write(name, text string) error {
	m, err := readMarker(w.dir)
	if err != nil {
		return err
	}
	digest := func(content []byte) string {
		sum := sha256.Sum256(content)
		return hex.EncodeToString(sum[:])
	}
	file, last, next := w.path(name), m.Written[name], digest([]byte(text))
	content, err := files.Read(file, maxFile)
	found := digest(content)
	switch {
	case errors.Is(err, fs.ErrNotExist):
	case err != nil:
		return err
	case found == next || found == last:
	case last == "": // an earlier version wrote it, and did not record what
		w.config.Note(fmt.Sprintf("%s is written anew, and %s.old keeps its former content", file, file))
		if err := os.Rename(file, file+".old"); err != nil {
			return err
		}
	case next == last:
		w.config.Note(file + " was edited and is used as it is; delete it to get the one that mayfly dev writes")
		return nil
	default:
		return fmt.Errorf("%s was edited, and this start needs another content than the last one: its flags, its address, its --issuers file or the version of mayfly differ; "+
			"start it as before, or rename the file, start again, and repeat the edit in the new one", file)
	}
	if m.Written == nil {
		m.Written = make(map[string]string)
	}
	m.Written[name] = next
	return errors.Join(os.WriteFile(file, []byte(text), 0o600), writeMarker(w.dir, m))
}

// writeIssuers writes the issuer file, and prepares to write it again when Config.Issuers changes.
func (w *World) writeIssuers(ctx context.Context) error {
	if w.config.Issuers == "" {
		return w.mergeIssuers([]byte("oidc-issuers: {}"))
	}
	var level slog.Level
	_ = level.UnmarshalText([]byte(w.config.LogLevel)) // the app refuses a wrong one
	w.watcher = watch.New(watch.Config{
		Name: "added issuers", Files: func() []string { return []string{w.config.Issuers} },
		Reload: func() error { return w.addIssuers(context.WithoutCancel(ctx)) },
		Logger: app.NewCallerLogger(w.config.LogOutput, level),
		Metric: "added_issuers", FailedMetric: "added_issuers_stale", Registry: prometheus.NewRegistry(),
	})
	return w.addIssuers(ctx)
}

// addIssuers writes the issuer file from Config.Issuers and the world's own entries, if the former
// has no mistake.
func (w *World) addIssuers(ctx context.Context) error {
	name := w.config.Issuers
	if own, err := os.Stat(w.path(issuersFile)); err == nil {
		if info, err := os.Stat(name); err == nil && os.SameFile(own, info) {
			return fmt.Errorf("%s is the file that mayfly dev writes, and edits of it stay in use: name another file, or none", name)
		}
	}
	// The check reads the file itself, so that mistakes have its lines.
	report, err := app.Check(ctx, app.CheckOptions{File: w.path(settingsFile), Environ: []string{"MAYFLY_ISSUERS=" + name}, NoFiles: true})
	if err != nil {
		return err
	}
	if err := errors.Join(report.Mistakes...); err != nil {
		return err
	}
	for _, warning := range report.Warnings {
		if strings.HasPrefix(warning.Error(), name+":") {
			w.config.Note(warning.Error())
		}
	}
	added, err := files.Read(name, maxFile)
	if err != nil {
		return err
	}
	return w.mergeIssuers(added)
}

// mergeIssuers writes the issuer file with the entries of added, an issuer file, and those of the
// world's issuers that it lacks.
func (w *World) mergeIssuers(added []byte) error {
	const key = "oidc-issuers"
	var document yaml.Node
	if err := yaml.Unmarshal(added, &document); err != nil {
		return err
	}
	root := document.Content[0]
	entries := child(root, key)
	if entries == nil {
		entries = &yaml.Node{Kind: yaml.MappingNode}
		root.Content = append(root.Content, scalar(key), entries)
	}
	if root.Style == yaml.FlowStyle || entries.Kind != yaml.MappingNode {
		return fmt.Errorf("%s is JSON, or its %s is an alias, and mayfly dev cannot add its own issuers there: write YAML with one key on a line", w.config.Issuers, key)
	}
	entries.Style = 0 // not {}
	for _, kind := range w.kinds {
		url := w.url + kind.Path
		if child(entries, url) != nil {
			continue
		}
		values, err := kind.values(nil, w.url)
		if err != nil {
			return err
		}
		entry := &yaml.Node{Kind: yaml.MappingNode, Content: []*yaml.Node{
			scalar("issuer-url"), scalar(url), scalar("client-id"), scalar("sigstore"), scalar("description"), scalar(kind.About),
		}}
		for _, key := range slices.Sorted(maps.Keys(kind.Entry)) {
			value, err := render(kind.Entry[key], values)
			if err != nil {
				return err
			}
			entry.Content = append(entry.Content, scalar(key), scalar(value))
		}
		entries.Content = append(entries.Content, scalar(url), entry)
	}
	var b strings.Builder
	b.WriteString(writtenLine)
	encoder := yaml.NewEncoder(&b)
	encoder.SetIndent(2)
	if err := encoder.Encode(&document); err != nil {
		return err
	}
	return w.write(issuersFile, b.String())
}

func scalar(text string) *yaml.Node {
	n := &yaml.Node{}
	n.SetString(text)
	return n
}

// child returns the value of a key that the mapping itself has; or nil.
func child(mapping *yaml.Node, key string) *yaml.Node {
	for i := 0; i+1 < len(mapping.Content); i += 2 {
		if mapping.Content[i].Value == key {
			return mapping.Content[i+1]
		}
	}
	return nil
}
