// SPDX-License-Identifier: Apache-2.0

package embedded

import (
	"cmp"
	"crypto/x509"
	"errors"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/mayfly-ca/mayfly/internal/keypath"
)

// Config is a static-ct-api log in this process. `mayfly ctlog init` creates the key, the directory
// and the guard.
//
// The same value serves Open, Inspect, Check, Fsck and Search. The fields with tags are keys of
// `ct.logs[].embedded`.
type Config struct {
	// Name is part of the log's path, /ctlog/NAME/. Letters, digits, dots, hyphens and underscores;
	// no other embedded log may have it.
	Name string `key:"name" required:"it is the path under which the log is served"`
	// Dir is the directory of the log's entries, on a local disk, with one writer.
	Dir string `key:"dir" kind:"path" required:"it is the directory of the log's entries"`
	// Guard is the file that keeps the newest tree head, so that a log restored from a backup is not
	// continued differently. It must be outside dir, best on another disk, and never be restored
	// together with it.
	Guard string `key:"guard" kind:"path" required:"it is the file that keeps the newest tree head"`
	// Key is the log's own P-256 key, PKCS#8 PEM. It is never a CA's.
	Key string `key:"key" kind:"path" required:"it is the file of the log's private key"`
	// Origin is the name of the log in checkpoints, by custom its URL without the scheme.
	Origin string `key:"origin" required:"it is the log's name in checkpoints"`
	// BatchAge is the time that an entry waits for others, to be written with them. It delays each
	// certificate by that time.
	BatchAge time.Duration `key:"batch_age" default:"10ms" min:"1ms" max:"1s"`
	// CheckpointInterval is the interval at which new tree heads are published.
	CheckpointInterval time.Duration `key:"checkpoint_interval" default:"1s" min:"100ms" max:"10s"`
	// Submit permits submissions over HTTP. Without it, no client may submit.
	//
	// Open reads SubmitToken and not this file.
	Submit *Submit `key:"submit"`

	// SubmitToken is the bearer token that submitters over HTTP must send, at least 16 bytes;
	// an empty one turns submission over HTTP off.
	SubmitToken []byte
	// Roots returns the CA certificates in which chains submitted over HTTP must end; nil for
	// none. The log calls it for each submission.
	Roots func() []*x509.Certificate

	Now        func() time.Time         // the clock of SCTs and tree heads; nil for time.Now
	Logger     *slog.Logger             // receives refusals and failures; nil for none
	Registerer prometheus.Registerer    // of the metrics mayfly_ctlog_…; nil for none; several logs may share one
	Progress   func(done, total uint64) // receives how many of an Fsck's entries are checked; nil for none

	reserve    uint64 // minFree, except in tests
	spareFiles uint64 // the constant, except in tests
	maxPending int    // defaultMaxPending, except in tests
}

// Submit is `submit`.
type Submit struct {
	// TokenFile holds the bearer token that a submitter must send.
	TokenFile string `key:"token_file" kind:"path" required:"without submit, no client may submit over HTTP; with it, clients with the token may"`
}

const (
	// defaultMaxPending bounds the entries that wait to be stored.
	defaultMaxPending = 4096
	minSubmitToken    = 16
	// maxBatch is the number of entries that flushes a batch before its age. Tessera rewrites
	// the last, partial tile with each batch, so large batches are cheaper.
	maxBatch = 512
	// republishInterval is how often the log signs the tree head again while the tree does not
	// grow.
	republishInterval = 10 * time.Minute
	// collectInterval is how often the log deletes partial tiles that full ones have
	// replaced, 100 tiles a time: enough for 2,560 entries a second.
	collectInterval = 10 * time.Second
)

func (cfg Config) withDefaults() Config {
	cfg.BatchAge = cmp.Or(cfg.BatchAge, 10*time.Millisecond)
	cfg.CheckpointInterval = cmp.Or(cfg.CheckpointInterval, time.Second)
	cfg.maxPending = cmp.Or(cfg.maxPending, defaultMaxPending)
	cfg.reserve = cmp.Or(cfg.reserve, minFree)
	cfg.spareFiles = cmp.Or(cfg.spareFiles, spareFiles)
	cfg.Logger = cmp.Or(cfg.Logger, slog.New(slog.DiscardHandler))
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Roots == nil {
		cfg.Roots = func() []*x509.Certificate { return nil }
	}
	return cfg
}

const nameCharacters = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._-"

// CheckSettings validates what package config does not know, and reads no file but to resolve paths.
// Errors have key paths such as ["guard"].
func CheckSettings(cfg Config) error {
	var errs []error
	mistake := func(key, format string, args ...any) {
		errs = append(errs, keypath.Errorf(strings.Split(key, "."), format, args...))
	}
	if len(cfg.Name) > 64 || strings.Trim(cfg.Name, nameCharacters) != "" || strings.Trim(cfg.Name, ".") == "" {
		mistake("name", "%.80q is no name for a log; use at most 64 letters, digits, '.', '_' and '-'", cfg.Name)
	}
	if o := cfg.Origin; len(o) > 255 || strings.Trim(o, nameCharacters+"/:[]~%") != "" || strings.Trim(o, "/") != o || strings.Contains(o, "://") || o == "" {
		mistake("origin", "%.100q is no origin; it is the submission prefix without scheme and trailing slash, at most 255 characters, such as log.example/2026", o)
	}
	inside, err := filepath.Rel(resolve(cfg.Dir), resolve(cfg.Guard))
	if err == nil && inside != ".." && !strings.HasPrefix(inside, ".."+string(filepath.Separator)) {
		mistake("guard", "%s is inside the log's directory %s; a backup of the directory would bring back the guard too, so put it elsewhere", cfg.Guard, cfg.Dir)
	}
	if n := len(cfg.SubmitToken); n > 0 && n < minSubmitToken {
		mistake("submit.token_file", "the token has %d bytes; it needs at least %d, such as from openssl rand -hex 32", n, minSubmitToken)
	}
	return errors.Join(errs...)
}

// resolve follows the symbolic links in the existing part of path.
func resolve(path string) string {
	path, _ = filepath.Abs(path)
	real, err := filepath.EvalSymlinks(path)
	if parent := filepath.Dir(path); err != nil && parent != path {
		return filepath.Join(resolve(parent), filepath.Base(path))
	}
	return real
}

// complete sets the defaults, reads the key, and checks everything that needs no writing.
func (cfg Config) complete() (Config, *logKey, error) {
	cfg = cfg.withDefaults()
	if err := CheckSettings(cfg); err != nil {
		return cfg, nil, err
	}
	key, err := loadKey(cfg.Key)
	if err != nil {
		return cfg, nil, keypath.Prefix(err, "key")
	}
	if _, err := os.Stat(filepath.Join(cfg.Dir, stateDir)); errors.Is(err, fs.ErrNotExist) {
		return cfg, nil, keypath.Errorf([]string{"dir"}, "%s holds no log; mayfly ctlog init creates a new one, and nothing else creates one: if this one existed before, put its directory back", cfg.Dir)
	} else if err != nil {
		return cfg, nil, keypath.Errorf([]string{"dir"}, "looking for the log: %w", err)
	}
	return cfg, key, nil
}
