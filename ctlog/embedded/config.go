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

// Config is one log. The same value serves Open, Inspect, Fsck and OpenReader.
type Config struct {
	// Name distinguishes the log in paths (/ctlog/NAME/), log lines and metrics: letters,
	// digits, '.', '_' and '-'. It is mandatory.
	Name string
	// Dir is the directory that Init created, on a local disk. It is mandatory.
	Dir string
	// Guard is the file that Init created, outside Dir, and best on another disk: a restore
	// of Dir from a backup must not restore the guard too. It is mandatory.
	Guard string
	// Key is the path of the log's key, PKCS#8 PEM, ECDSA P-256, as Init created it. It is
	// mandatory.
	Key string
	// Origin is the log's submission prefix as a URL without scheme and trailing slash, such as
	// log.example/2026. It never changes. It is mandatory.
	Origin string

	// BatchAge is how long an entry waits for others in its batch; zero for 10 ms. It is most
	// of the latency of an add: 5 to 20 ms are useful.
	BatchAge time.Duration
	// CheckpointInterval is how often the log signs and publishes the tree head while the
	// tree grows, from 100 ms to 10 s; zero for 1 s. Shutdown takes as long.
	CheckpointInterval time.Duration
	// MaxPending bounds the entries that wait to be stored; zero for 4096.
	MaxPending int

	// SubmitToken is the bearer token that submitters over HTTP must send, at least 16 bytes;
	// an empty one turns submission over HTTP off.
	SubmitToken []byte
	// Roots returns the CA certificates in which chains submitted over HTTP must end; nil for
	// none. The log calls it for each submission.
	Roots func() []*x509.Certificate

	// Now is the clock of SCTs and tree heads; nil for time.Now.
	Now func() time.Time
	// Logger receives refusals and failures; nil for none.
	Logger *slog.Logger
	// Registerer registers the metrics mayfly_ctlog_…; nil for none. Several logs may share
	// one.
	Registerer prometheus.Registerer

	// reserve is minFree, except in tests.
	reserve uint64
}

const (
	defaultBatchAge           = 10 * time.Millisecond
	defaultCheckpointInterval = time.Second
	minCheckpointInterval     = 100 * time.Millisecond
	maxCheckpointInterval     = 10 * time.Second
	defaultMaxPending         = 4096
	minSubmitToken            = 16
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

// CheckSettings validates cfg, and reads no file. Errors have key paths such as ["dir"].
func CheckSettings(cfg Config) error { return cfg.withDefaults().checkSettings() }

func (cfg Config) withDefaults() Config {
	cfg.BatchAge = cmp.Or(cfg.BatchAge, defaultBatchAge)
	cfg.CheckpointInterval = cmp.Or(cfg.CheckpointInterval, defaultCheckpointInterval)
	cfg.MaxPending = cmp.Or(cfg.MaxPending, defaultMaxPending)
	cfg.Logger = cmp.Or(cfg.Logger, slog.New(slog.DiscardHandler))
	cfg.reserve = cmp.Or(cfg.reserve, minFree)
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Roots == nil {
		cfg.Roots = func() []*x509.Certificate { return nil }
	}
	return cfg
}

func (cfg Config) checkSettings() error {
	errs := append(checkNames(cfg.Name, cfg.Origin), checkPaths(cfg.Dir, cfg.Guard)...)
	if cfg.BatchAge < time.Millisecond || cfg.BatchAge > time.Second {
		errs = append(errs, keypath.Errorf([]string{"batch_age"}, "%s is out of range; it is from 1ms to 1s, and 10ms is good", cfg.BatchAge))
	}
	if cfg.CheckpointInterval < minCheckpointInterval || cfg.CheckpointInterval > maxCheckpointInterval {
		errs = append(errs, keypath.Errorf([]string{"checkpoint_interval"}, "%s is out of range; it is from 100ms to 10s, and 1s is good", cfg.CheckpointInterval))
	}
	if cfg.MaxPending < 1 {
		errs = append(errs, keypath.Errorf([]string{"max_pending"}, "%d leaves no room for an entry", cfg.MaxPending))
	}
	if n := len(cfg.SubmitToken); n > 0 && n < minSubmitToken {
		errs = append(errs, keypath.Errorf([]string{"submit", "token_file"}, "the token has %d bytes; it needs at least %d, such as from openssl rand -hex 32", n, minSubmitToken))
	}
	return errors.Join(errs...)
}

// complete sets the defaults, reads the key, and checks everything that needs no writing.
func (cfg Config) complete() (Config, *logKey, error) {
	cfg = cfg.withDefaults()
	key, err := loadKey(cfg.Key)
	if err = errors.Join(cfg.checkSettings(), keypath.Prefix(err, "key")); err != nil {
		return cfg, nil, err
	}
	if _, err := os.Stat(filepath.Join(cfg.Dir, stateDir)); errors.Is(err, fs.ErrNotExist) {
		return cfg, nil, keypath.Errorf([]string{"dir"}, "%s holds no log; mayfly ctlog init creates a new one, and nothing else creates one: if this one existed before, put its directory back", cfg.Dir)
	} else if err != nil {
		return cfg, nil, keypath.Errorf([]string{"dir"}, "looking for the log: %w", err)
	}
	return cfg, key, nil
}

// checkNames checks the names that appear in URLs and checkpoints.
func checkNames(name, origin string) (errs []error) {
	switch {
	case name == "":
		errs = append(errs, keypath.Errorf([]string{"name"}, "the log's name is missing"))
	case len(name) > 64 || strings.Trim(name, nameCharacters) != "" || strings.Trim(name, ".") == "":
		errs = append(errs, keypath.Errorf([]string{"name"}, "%.80q is no name for a log; use at most 64 letters, digits, '.', '_' and '-'", name))
	}
	if len(origin) > 255 || strings.Trim(origin, nameCharacters+"/:[]~%") != "" || strings.Trim(origin, "/") != origin || strings.Contains(origin, "://") || origin == "" {
		errs = append(errs, keypath.Errorf([]string{"origin"}, "%.100q is no origin; it is the submission prefix without scheme and trailing slash, at most 255 characters, such as log.example/2026", origin))
	}
	return errs
}

const nameCharacters = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._-"

// checkPaths refuses a guard inside the directory that it guards.
func checkPaths(dir, guard string) (errs []error) {
	if dir == "" {
		errs = append(errs, keypath.Errorf([]string{"dir"}, "the log's directory is missing"))
	}
	if guard == "" {
		errs = append(errs, keypath.Errorf([]string{"guard"}, "the log's guard is missing; it is a file outside the log's directory"))
	}
	if len(errs) > 0 {
		return errs
	}
	inside, err := filepath.Rel(resolve(dir), resolve(guard))
	if err == nil && inside != ".." && !strings.HasPrefix(inside, ".."+string(filepath.Separator)) {
		errs = append(errs, keypath.Errorf([]string{"guard"}, "%s is inside the log's directory %s; a backup of the directory would bring back the guard too, so put it elsewhere", guard, dir))
	}
	return errs
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
