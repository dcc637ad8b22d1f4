// SPDX-License-Identifier: Apache-2.0

package hashivault

import (
	"cmp"
	"errors"
	"net/url"
	"os"
	"regexp"
	"strings"

	"github.com/mayfly-ca/mayfly/ca/signer"
	"github.com/mayfly-ca/mayfly/internal/files"
	"github.com/mayfly-ca/mayfly/internal/httputil"
	"github.com/mayfly-ca/mayfly/internal/keypath"
)

// Config names a key and its access.
type Config signer.KMS

// settings is a Config after its check, with the values from the environment.
type settings struct {
	name, address, mount, token, tokenSource string
	version                                  uint64
}

var (
	validURI = regexp.MustCompile(`^(?:hashivault|openbao)://(\w(?:[\w.-]*\w)?)$`)
	// validMount matches a path with no segment that leads elsewhere.
	validMount = regexp.MustCompile(`^(?:[A-Za-z0-9_-][A-Za-z0-9._-]*/)*[A-Za-z0-9_-][A-Za-z0-9._-]*$`)
	validToken = regexp.MustCompile(`^[!-~]+$`)
)

// check returns all mistakes at once.
func (cfg Config) check() (settings, error) {
	s := settings{version: cfg.Version, mount: cmp.Or(cfg.Mount, "transit"), address: cmp.Or(cfg.Address, os.Getenv("VAULT_ADDR"), os.Getenv("BAO_ADDR"))}
	var errs []error
	mistake := func(key, format string, args ...any) {
		errs = append(errs, keypath.Errorf([]string{key}, format, args...))
	}
	if match := validURI.FindStringSubmatch(cfg.URI); match != nil {
		s.name = match[1]
	} else {
		mistake("uri", "%q should be hashivault://NAME or openbao://NAME, with the key's name in the transit engine", cfg.URI)
	}
	if cfg.Version == 0 {
		mistake("version", "no version is given; give the key's version that belongs to the certificate, from 1, since a rotation creates another key")
	}
	if !validMount.MatchString(s.mount) {
		mistake("mount", "%q should be the path of the transit engine without slashes at its ends", s.mount)
	}
	u, err := url.Parse(s.address)
	switch {
	case err != nil || u.Host == "" || u.User != nil || u.RawQuery != "" || u.Fragment != "":
		mistake("address", "the address, here or in VAULT_ADDR or BAO_ADDR, should be a URL as in https://vault.example:8200")
	case u.Scheme != "https" && (u.Scheme != "http" || !httputil.IsLoopback(u.Hostname())):
		mistake("address", "%s would send the token in clear; use https, or http to this machine's loopback address", s.address)
	}
	if err := s.readToken(cfg.TokenFile); err != nil {
		mistake("token_file", "%w", err)
	}
	return s, errors.Join(errs...)
}

// readToken sets the token. It does not read the files and helpers of Vault's command line, which
// belong to a person.
func (s *settings) readToken(file string) error {
	s.token, s.tokenSource = cmp.Or(os.Getenv("VAULT_TOKEN"), os.Getenv("BAO_TOKEN")), "the token of VAULT_TOKEN or BAO_TOKEN"
	if file != "" {
		line, _, err := files.ReadSecretLine(file, "a token") // a helper such as Vault Agent sets the file's mode
		if err != nil {
			return err
		}
		s.token, s.tokenSource = string(line), "the token of the file "+file
	}
	if !validToken.MatchString(s.token) {
		return errors.New(strings.TrimPrefix(s.tokenSource, "the token of ") + " should hold a token alone: there is none, or there are spaces or line endings")
	}
	return nil
}
