// SPDX-License-Identifier: Apache-2.0

package audit

import (
	"bufio"
	"cmp"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
)

// file is a file of an audit log.
type file struct {
	path  string
	name  uint64 // the sequence of its first record, by its name
	first Record // the zero Record if its first line is none
}

func fileName(sequence uint64) string { return fmt.Sprintf("audit-%012d.jsonl", sequence) }

// list returns the files of a directory in the order of the chain.
func list(dir string) (all []file, err error) {
	names, err := os.ReadDir(dir)
	for _, entry := range names {
		name := entry.Name()
		sequence, errName := strconv.ParseUint(strings.TrimSuffix(strings.TrimPrefix(name, "audit-"), ".jsonl"), 10, 64)
		if err != nil || errName != nil || fileName(sequence) != name || entry.IsDir() {
			continue
		}
		f := file{path: filepath.Join(dir, name), name: sequence}
		if err = lines(f.path, 0, func(_ int, line []byte, _ int64) error {
			f.first, _, _ = parse(line)
			return errEnough
		}); errors.Is(err, errEnough) {
			err = nil
		}
		all = append(all, f)
	}
	if err != nil {
		return nil, fmt.Errorf("reading the audit log: %w; name the directory that a server has as audit.dir", err)
	}
	slices.SortFunc(all, func(a, b file) int { return cmp.Compare(a.name, b.name) })
	return all, nil
}

// errEnough ends a reading early.
var errEnough = errors.New("enough")

// lines calls do for each line from an offset on, with its end in the file and with its newline, unless the last
// line has none. Of a line that is longer than a record it gets the end. The memory is bounded, whatever
// the file holds.
func lines(path string, at int64, do func(number int, line []byte, end int64) error) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }()
	r := bufio.NewReaderSize(io.NewSectionReader(f, at, math.MaxInt64-at), MaxRecord)
	for number := 1; err == nil; number++ {
		var line []byte
		line, err = r.ReadSlice('\n')
		for at += int64(len(line)); errors.Is(err, bufio.ErrBufferFull); at += int64(len(line)) {
			line, err = r.ReadSlice('\n')
			line = line[max(0, len(line)-1):]
		}
		if len(line) > 0 && (err == nil || errors.Is(err, io.EOF)) {
			if failed := do(number, line, at); failed != nil {
				return failed
			}
		}
	}
	if errors.Is(err, io.EOF) {
		return nil
	}
	return fmt.Errorf("reading %s: %w", path, err)
}

// lastTime returns the time of the last record in a file; zero for none.
func lastTime(path string) (at time.Time, err error) {
	info, err := os.Stat(path)
	if err != nil {
		return at, err
	}
	err = lines(path, max(0, info.Size()-2*MaxRecord), func(_ int, line []byte, _ int64) error {
		if r, _, err := parse(line); err == nil { // the first line may be a part of one
			at = r.Time
		}
		return nil
	})
	return at, err
}

// lastRecord returns the head that a file makes, where its last record ends, and how many bytes follow. What
// follows the last record that continues the chain is incomplete if it is not more than one batch, and has nothing
// that only a durable batch can have. Otherwise the file was damaged: a later record counts, so that Verify finds
// the damage.
func lastRecord(path string) (head Head, end, left int64, err error) {
	info, err := os.Stat(path)
	if err != nil {
		return Head{}, 0, 0, err
	}
	at := max(0, info.Size()-2*maxBatch)
	err = lines(path, at, func(number int, line []byte, next int64) error {
		r, h, errLine := parse(line)
		continues := head.Sequence == 0 || r.Sequence == head.Sequence+1 && r.Previous == head.Hash
		later := r.Sequence > head.Sequence && (info.Size()-end > maxBatch || damaged(head, r))
		if errLine == nil && (continues || later) && (at == 0 || number > 1) { // the first line may be a part of one
			head, end = h, next
		}
		return nil
	})
	return head, end, info.Size() - end, err
}

// damaged reports whether a record shows that what lies between it and head was durable, or that head was changed:
// no crash changes a record, and an outcome with a certificate is written after its intent is durable.
func damaged(head Head, r Record) bool {
	return r.Sequence == head.Sequence+1 && r.Previous != head.Hash || r.Reason == ReasonOK && r.Intent > head.Sequence
}
