// SPDX-License-Identifier: Apache-2.0

package migrate

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/mayfly-ca/mayfly/app"
	"github.com/mayfly-ca/mayfly/app/keyring"
	"github.com/mayfly-ca/mayfly/config"
	"github.com/mayfly-ca/mayfly/internal/files"
)

// Run writes the files of a mayfly server into Options.Out, which is new or empty. If it returns an error, it has
// written nothing. The error is config.Mistakes with all mistakes of the source; or it states which file is unreadable
// or not empty.
func Run(ctx context.Context, o Options) (err error) {
	if o.Out, err = filepath.Abs(o.Out); err != nil {
		return err
	}
	parent := o.Out // an empty directory may be a mount, and keeps its mode and its owner
	entries, err := os.ReadDir(o.Out)
	if errors.Is(err, fs.ErrNotExist) {
		parent, err = filepath.Dir(o.Out), nil
	}
	if len(entries) > 0 {
		return fmt.Errorf("%s is not empty, and migrate replaces no files: name another directory (%w)", o.Out, fs.ErrExist)
	} else if err != nil {
		return err
	}
	p, err := newPlan(o)
	if err != nil {
		return err
	}
	if len(p.mistakes) > 0 {
		return p.mistakes
	}
	temporary, err := os.MkdirTemp(parent, "."+filepath.Base(o.Out)+"-*")
	if err != nil {
		return err
	}
	if err = p.write(ctx, temporary); err == nil {
		err = move(temporary, o.Out, parent)
	}
	if err != nil {
		return errors.Join(err, os.RemoveAll(temporary))
	}
	return files.SyncFolder(parent)
}

// move moves the files of a directory to out: all at once if out does not exist, which is then in parent; otherwise
// one by one, and after an error none.
func move(from, out, parent string) error {
	if out != parent {
		return os.Rename(from, out)
	}
	entries, err := os.ReadDir(from)
	for i := 0; i < len(entries) && err == nil; i++ {
		name := entries[i].Name()
		if err = os.Rename(filepath.Join(from, name), filepath.Join(out, name)); err != nil {
			for _, moved := range entries[:i] {
				err = errors.Join(err, os.Remove(filepath.Join(out, moved.Name())))
			}
		}
	}
	if err == nil {
		err = os.Remove(from)
	}
	return err
}

// write writes the files into a directory, and checks them there.
func (p *plan) write(ctx context.Context, dir string) error {
	put := func(name string, content []byte, err error) error {
		if err != nil {
			return err
		}
		return files.Create(filepath.Join(dir, name), content, 0o644)
	}
	errs := []error{put("issuers.yaml", p.Identities, nil)}
	for name, secret := range p.secrets() {
		errs = append(errs, files.Create(filepath.Join(dir, name), []byte(secret+"\n"), 0o600))
	}
	if p.CASet == "" {
		content, err := p.render("ca.yaml")
		errs = append(errs, put("ca.yaml", content, err))
	}
	if p.ChainPath() == filepath.Join(p.Out, "chain.pem") {
		errs = append(errs, put("chain.pem", p.Chain, nil))
	}
	if err := errors.Join(errs...); err != nil {
		return err
	}
	if err := p.check(ctx, dir); err != nil {
		return err
	}
	for _, name := range []string{"values.yaml", "report.md"} {
		content, err := p.render(name)
		errs = append(errs, put(name, content, err))
	}
	return errors.Join(append(errs, files.SyncFolder(dir), os.Chmod(dir, 0o755))...)
}

// check writes mayfly.yaml and checks the files in dir as a server reads them. If the issuer file has faults that Fulcio
// tolerates and no others, Compat becomes true.
func (p *plan) check(ctx context.Context, dir string) error {
	options := app.CheckOptions{File: filepath.Join(dir, "mayfly.yaml")}
	options.NoFiles = p.Root != "" || p.HelmValues != "" || p.Tag() != "" && !slices.Contains(keyring.Kinds(), p.Tag())
	var report *app.CheckReport
	for _, p.Compat = range []bool{false, true} {
		content, err := p.render("mayfly.yaml")
		if err == nil {
			err = files.Replace(options.File, content, 0o644)
		}
		if err == nil {
			report, err = app.Check(ctx, options)
		}
		if err != nil {
			return err
		}
		if len(report.Mistakes) == 0 {
			break
		}
		p.mistakes = p.origins(report.Mistakes, dir)
	}
	if len(report.Mistakes) > 0 {
		return p.mistakes
	}
	for _, fault := range p.mistakes {
		p.Tolerated = append(p.Tolerated, fault.Error())
	}
	for _, warning := range p.origins(report.Warnings, dir) {
		if text := warning.Error(); !slices.Contains(p.Tolerated, text) {
			p.Warnings = append(p.Warnings, text)
		}
	}
	return nil
}

// origins returns mistakes in written files as those of the source: in the identity file at the same line, otherwise at
// the setting that the line names.
func (p *plan) origins(errs []error, dir string) (mistakes config.Mistakes) {
	for _, err := range errs {
		m := config.Mistake{File: "migrate", Text: err.Error()}
		errors.As(err, &m)
		content, _ := os.ReadFile(m.File)
		lines := strings.Split(string(content), "\n")
		if filepath.Base(m.File) == "issuers.yaml" {
			m.File = p.identityFile
		} else if m.Line > 0 && m.Line <= len(lines) {
			line := lines[m.Line-1]
			if v, given := p.values[line[strings.LastIndex(line, " ")+1:]]; given { // behind the #
				v.at.Text = m.Text
				m = v.at
			}
		}
		m.File, m.Text = strings.Replace(m.File, dir, p.Out, 1), strings.ReplaceAll(m.Text, dir, p.Out)
		mistakes = append(mistakes, m)
	}
	return mistakes
}

// Row is a row of the report's table.
type Row struct{ Setting, Value, Became string }

// Rows returns what each setting became that was given, or has a default.
func (p *plan) Rows() (rows []Row) {
	for _, s := range p.Settings {
		v, given := p.values[s.Name]
		row := Row{s.Name, code(v.text), strings.ReplaceAll(s.Becomes, "](", "](docs/")}
		switch {
		case given && s.Form == "secret":
			row.Value = "(secret)"
		case given && v.text == "":
			row.Value = "(empty)"
		case !given && s.Default != "" && p.counts(s):
			row.Value = code(s.Default) + " (default)"
		case !given:
			continue
		}
		if !p.counts(s) {
			row.Became = "nothing: `ca` is " + p.Text("ca")
			if p.CASet != "" {
				row.Became = "nothing: `--ca-set` replaces the authority"
			}
		}
		rows = append(rows, row)
	}
	return append(rows, p.chartRows...)
}

// counts reports whether a setting has an effect: those of ca.yaml have it for their own kind of CA.
func (p *plan) counts(s setting) bool {
	if !strings.Contains(s.Becomes, "of ca.yaml") {
		return true
	}
	kind := map[string]string{"fileca": "^fileca-", "kmsca": "^kms-", "pkcs11ca": "hsm-|^pkcs11-"}[p.Text("ca")]
	return p.CASet == "" && (s.Name == "ca" || kind != "" && regexp.MustCompile(kind).MatchString(s.Name))
}

// code returns text as code in a table of Markdown.
func code(text string) string {
	fence := "`"
	for strings.Contains(text, fence) {
		fence += "`"
	}
	return fence + strings.ReplaceAll(text, "|", `\|`) + fence
}
