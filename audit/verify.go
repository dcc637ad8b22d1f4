// SPDX-License-Identifier: Apache-2.0

package audit

import (
	"context"
	"fmt"
	"io/fs"
	"slices"
	"time"
)

// maxFindings bounds what one Report lists.
const maxFindings = 100

// Report is the result of Verify. Its JSON keys are stable.
type Report struct {
	Dir   string `json:"dir"`
	Files int    `json:"files"`
	// First is the record at which the chain begins, and Head the one at which it ends.
	First     uint64    `json:"first"`
	FirstTime time.Time `json:"firstTime"`
	Head      Head      `json:"head"`
	LastTime  time.Time `json:"lastTime"`
	// Kinds counts the records by their kind.
	Kinds map[string]uint64 `json:"records"`
	// Found are the sequences of those heads asked for that are in the chain, by their hash.
	Found map[string]uint64 `json:"foundHeads"`
	// Findings are the broken places, each as FILE:LINE: sentence, at most 100; Broken is their number.
	Findings []string `json:"findings"`
	Broken   int      `json:"broken"`
	// Notes are what a crash or a failing disk has left, which is no failure.
	Notes []string `json:"notes"`
}

// verifier follows one chain.
type verifier struct {
	*Report
	heads []string
	path  string // of the last record
	line  int
}

// Verify reads every record in dir, and reports where one is missing, was changed, or is in another place
// than it was written. heads are hashes that should be in the chain: without the newest one, a missing
// tail cannot be excluded. Its error states why the directory is unreadable.
func Verify(ctx context.Context, dir string, heads []string) (*Report, error) {
	all, err := list(dir)
	if err == nil && len(all) == 0 {
		err = fmt.Errorf("reading the audit log: %w; name the directory that a server has as audit.dir", &fs.PathError{Op: "read", Path: dir, Err: errNoFile})
	}
	if err != nil {
		return nil, err
	}
	v := &verifier{Report: &Report{Dir: dir, Files: len(all), Kinds: map[string]uint64{}, Found: map[string]uint64{}}, heads: heads}
	for i, f := range all {
		var next Record // the first one of the next file
		if i+1 < len(all) {
			next = all[i+1].first
		}
		later := slices.ContainsFunc(all[i+1:], func(f file) bool { return f.first.Sequence > 0 })
		if err := v.readFile(ctx, f, next, !later); err != nil {
			return nil, err
		}
	}
	if v.First == 0 {
		v.found(all[0].path, 1, "there is no record")
	}
	return v.Report, nil
}

// readFile follows the chain through a file. If the next file begins with a recovery record, this file
// counts up to the record before that one. What follows in it was never durable, as far as it can show.
func (v *verifier) readFile(ctx context.Context, f file, next Record, last bool) error {
	left, records, first := 0, 0, v.Head.Sequence
	err := lines(f.path, 0, func(number int, line []byte, _ int64) error {
		r, head, err := parse(line)
		switch {
		case number%1024 == 0 && ctx.Err() != nil:
			return ctx.Err()
		case next.Kind == KindRecovery && v.Head.Sequence > first && v.Head.Sequence == next.Sequence-1:
			if left += len(line); err == nil {
				records++
			}
			if err == nil && damaged(v.Head, r) {
				v.found(f.path, number, "record %d follows durable records that the recovery record %d leaves out", r.Sequence, next.Sequence)
			}
		case err != nil && last && line[len(line)-1] != '\n':
			v.note(f.path, number, "the last line is incomplete, as after a crash; the server's next start closes the file with a recovery record")
		case err != nil:
			v.found(f.path, number, "the line is no record")
		case number == 1 && r.Sequence != f.name:
			v.found(f.path, number, "the name of the file states record %d, and its first record is %d", f.name, r.Sequence)
			fallthrough
		default:
			v.record(f.path, number, &r, head)
		}
		return nil
	})
	if left > 0 {
		v.note(f.path, 1, "%d bytes with %d records after record %d do not count: the recovery record %d follows", left, records, v.Head.Sequence, next.Sequence)
	}
	return err
}

// record continues the chain with a record.
func (v *verifier) record(path string, line int, r *Record, head Head) {
	v.Kinds[r.Kind]++
	if slices.Contains(v.heads, head.Hash) {
		v.Found[head.Hash] = r.Sequence
	}
	switch expected := v.Head.Sequence + 1; {
	case v.First == 0:
		v.First, v.FirstTime = r.Sequence, r.Time
		if r.Sequence == 1 && r.Previous != noHash {
			v.found(path, line, "record 1 names a record before it")
		}
	case r.Sequence == expected && r.Previous != v.Head.Hash:
		v.found(v.path, v.line, "record %d was changed: record %d has another hash of it", v.Head.Sequence, r.Sequence)
	case r.Sequence > expected:
		v.found(path, line, "the records from %d to %d are missing before record %d", expected, r.Sequence-1, r.Sequence)
	case r.Sequence < expected:
		v.found(path, line, "record %d is repeated, or was moved behind record %d", r.Sequence, v.Head.Sequence)
		return
	}
	v.Head, v.LastTime, v.path, v.line = head, r.Time, path, line
}

func (v *verifier) found(path string, line int, format string, args ...any) {
	if v.Broken++; v.Broken <= maxFindings {
		v.Findings = append(v.Findings, fmt.Sprintf("%s:%d: ", path, line)+fmt.Sprintf(format, args...))
	}
}

func (v *verifier) note(path string, line int, format string, args ...any) {
	if len(v.Notes) < maxFindings {
		v.Notes = append(v.Notes, fmt.Sprintf("%s:%d: ", path, line)+fmt.Sprintf(format, args...))
	}
}
