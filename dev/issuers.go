// SPDX-License-Identifier: Apache-2.0

package dev

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/mayfly-ca/mayfly/app"
	"github.com/mayfly-ca/mayfly/internal/files"
	"github.com/mayfly-ca/mayfly/internal/watch"
)

// writtenLine begins the first line of each file that write writes. The SHA-256 of the other lines follows.
const writtenLine = "# Written by mayfly dev at each start, unless it was edited. Keep this line, sha256:"

// write writes a file of the directory that people may edit, unless somebody has edited it. An edit
// stays in use if the new content would be the last one. Otherwise the two do not fit together, and the
// person decides.
func (w *World) write(name, text string) error {
	first := func(text string) string { return fmt.Sprintf("%s%x", writtenLine, sha256.Sum256([]byte(text))) }
	file := w.path(name)
	content, err := files.Read(file, maxFile)
	last, found, _ := strings.Cut(string(content), "\n")
	switch {
	case errors.Is(err, fs.ErrNotExist):
	case err != nil:
		return err
	case last == first(found) || found == text:
	case last == first(text):
		w.config.Note(fmt.Errorf("%s was edited and is used as it is; delete it to get the one that mayfly dev writes", file))
		return nil
	default:
		return fmt.Errorf("%s was edited, and this start needs another content than the last one: its flags, its address, "+
			"its --issuers file or the version of mayfly differ, or the first line was changed; start it as before, "+
			"or rename the file, start again, and repeat the edit in the new one", file)
	}
	temporary := file + files.TemporarySuffix // a crash leaves no part of a file
	return errors.Join(os.WriteFile(temporary, []byte(first(text)+"\n"+text), 0o600), os.Rename(temporary, file))
}

// writeIssuers writes the issuer file with the world's issuers, and prepares to write it again when Config.Issuers changes.
func (w *World) writeIssuers(ctx context.Context) error {
	own := "oidc-issuers:\n"
	for _, kind := range w.kinds {
		own += fmt.Sprintf("  %[1]q: {issuer-url: %[1]q, client-id: sigstore, description: %[2]q, %[3]s}\n",
			w.url+kind.Path, kind.About, kind.Entry)
	}
	own, err := render(own, world(w.url))
	if err != nil {
		return err
	}
	if w.config.Issuers == "" {
		return w.write(issuersFile, own)
	}
	last := "" // problem, which is noted once
	w.watcher = watch.New(watch.Config{
		Name: "added issuers", Files: func() []string { return []string{w.config.Issuers} },
		Reload: func() error {
			err := w.addIssuers(context.WithoutCancel(ctx), own)
			switch text := fmt.Sprint(err); {
			case err == nil:
				w.config.Note(fmt.Errorf("%s has changed, and its new content is in use", w.config.Issuers))
			case text != last:
				w.config.Note(fmt.Errorf("%w; the last good content stays in use", err))
			}
			last = fmt.Sprint(err)
			return err
		},
		Logger: slog.New(slog.DiscardHandler),
	})
	return w.addIssuers(ctx, own)
}

// addIssuers writes the issuer file from Config.Issuers, if it has no mistake, and own.
func (w *World) addIssuers(ctx context.Context, own string) error {
	name := w.config.Issuers
	named, errNamed := os.Stat(name)
	written, errWritten := os.Stat(w.path(issuersFile))
	if errNamed == nil && errWritten == nil && os.SameFile(named, written) {
		return fmt.Errorf("%s is the file that mayfly dev writes, and edits of it stay in use: name another file, or none", name)
	}
	// The check reads the file itself, so that mistakes have its lines.
	environ := []string{"MAYFLY_ISSUERS=" + name}
	report, err := app.Check(ctx, app.CheckOptions{File: w.path(settingsFile), Environ: environ, NoFiles: true})
	if err := errors.Join(append(report.Mistakes, err)...); err != nil {
		return err
	}
	for _, warning := range report.Warnings {
		if strings.HasPrefix(warning.Error(), name+":") {
			w.config.Note(warning)
		}
	}
	added, err := files.Read(name, maxFile)
	if err != nil {
		return err
	}
	text, err := mergeIssuers(added, []byte(own))
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	return w.write(issuersFile, text)
}

// mergeIssuers returns an issuer file with the entries of added, and those of own that it lacks.
func mergeIssuers(added, own []byte) (string, error) {
	const key = "oidc-issuers"
	var file, world yaml.Node
	if err := errors.Join(yaml.Unmarshal(added, &file), yaml.Unmarshal(own, &world)); err != nil {
		return "", err
	}
	root, more := file.Content[0], world.Content[0]
	entries := child(root, key)
	switch {
	case root.Style == yaml.FlowStyle, entries != nil && entries.Kind != yaml.MappingNode:
		return "", errors.New("it is JSON, or its " + key + " is an alias: mayfly dev adds its own issuers there, " +
			"and needs YAML with one key on a line")
	case entries == nil:
		root.Content = append(root.Content, more.Content...)
	default:
		more = child(more, key)
		for i := 0; i < len(more.Content); i += 2 {
			if child(entries, more.Content[i].Value) == nil {
				entries.Content = append(entries.Content, more.Content[i:i+2]...)
			}
		}
	}
	text, err := yaml.Marshal(&file)
	return string(text), err
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
