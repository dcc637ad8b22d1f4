// SPDX-License-Identifier: Apache-2.0

package audit

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/mayfly-ca/mayfly/internal/wildcard"
)

// disorder bounds how much earlier a record may be than both ends of its file: a clock may be set back, and forth again.
const disorder = 15 * time.Minute

var errNoFile = errors.New("no file of an audit log (audit-….jsonl) is in it")

// Query states which records to find. An empty field matches all; every other field must match.
type Query struct {
	Since, Until time.Time
	// Identity is a name as a certificate has it, and Issuer an issuer URL; a * stands for any text.
	Identity, Issuer string
	// Key is the key of `identity: hmac`. Identity is then a whole name.
	Key []byte
	// Serial is a serial number in lower-case hexadecimal digits.
	Serial string
	// Reason is OK or the reason of a refusal, and Kind a kind of record.
	Reason, Kind string
}

// Search calls found with the records in dir that match q, in their order, and with their lines. It verifies
// nothing, and leaves out lines that are no record, and what a recovery record leaves out.
func Search(ctx context.Context, dir string, q Query, found func(r *Record, line []byte) error) error {
	all, err := list(dir)
	for i, f := range all {
		var next Record // the first one of the next file
		if i+1 < len(all) {
			next = all[i+1].first
		}
		if err != nil || i+1 < len(all) && q.misses(f) {
			continue
		}
		err = lines(f.path, 0, func(_ int, line []byte, _ int64) error {
			r, _, errLine := parse(line)
			if errLine == nil && q.matches(&r) {
				if err := found(&r, line); err != nil {
					return err
				}
			}
			if errLine == nil && next.Kind == KindRecovery && r.Sequence == next.Sequence-1 {
				return errEnough
			}
			return ctx.Err()
		})
		if errors.Is(err, errEnough) {
			err = nil
		}
	}
	return err
}

// misses reports whether both ends of a file are so far before or after the times that q asks for that no record of it matches.
func (q *Query) misses(f file) bool {
	last, err := lastTime(f.path)
	if err != nil { // found when it is read
		return false
	}
	before := func(at time.Time) bool { return at.Before(q.Since.Add(-disorder)) }
	after := func(at time.Time) bool { return !q.Until.IsZero() && at.After(q.Until.Add(disorder)) }
	return before(f.first.Time) && before(last) || after(f.first.Time) && after(last)
}

func (q *Query) matches(r *Record) bool {
	_, counted := r.Refused[q.Reason]
	return !r.Time.Before(q.Since) && (q.Until.IsZero() || !r.Time.After(q.Until)) && (q.Kind == "" || q.Kind == r.Kind) &&
		(q.Reason == "" || q.Reason == r.Reason || counted) && (q.Serial == "" || q.Serial == r.Serial) &&
		wildcard.Match(q.Issuer, r.IssuerURL) && q.names(r.Identity)
}

// names reports whether an identity, as a record has it, is the one that is asked for. One that was cut
// matches by its beginning and its length.
func (q *Query) names(identity string) bool {
	if q.Key != nil && q.Identity != "" {
		return identity == KeyedHash(q.Key, "identity", q.Identity)
	}
	beginning, note, isCut := strings.Cut(identity, "… (")
	return wildcard.Match(q.Identity, identity) ||
		isCut && strings.HasPrefix(q.Identity, beginning) && note == fmt.Sprintf("%d bytes)", len(q.Identity))
}
