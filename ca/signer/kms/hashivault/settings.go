// SPDX-License-Identifier: Apache-2.0

package hashivault

import (
	"errors"
	"net/url"
	"os"
	"strings"
	"unicode"

	"github.com/mayfly-ca/mayfly/internal/files"
	"github.com/mayfly-ca/mayfly/internal/httputil"
	"github.com/mayfly-ca/mayfly/internal/keypath"
)

// settings is a Config after its check, with the values from the environment.
type settings struct {
	uri, name, address, mount string
	version                   uint
	token, tokenSource        string
}

// check returns all mistakes at once.
func (cfg Config) check() (settings, error) {
	s := settings{uri: cfg.URI, version: cfg.Version, mount: cfg.Mount}
	var errs []error
	var ok bool
	if s.name, ok = validURI(cfg.URI); !ok {
		errs = append(errs, keypath.Errorf([]string{"uri"}, "%q should be hashivault://NAME or openbao://NAME, with the key's name in the transit engine", cfg.URI))
	}
	if cfg.Version == 0 {
		errs = append(errs, keypath.Errorf([]string{"version"}, "no version is given; give the key's version that belongs to the certificate, from 1, since a rotation makes another key"))
	}
	if s.mount == "" {
		s.mount = "transit"
	}
	if !validMount(s.mount) {
		errs = append(errs, keypath.Errorf([]string{"mount"}, "%q should be the path of the transit engine without slashes at its ends", s.mount))
	}
	var addressErr, tokenErr error
	s.address, addressErr = cfg.address()
	s.token, s.tokenSource, tokenErr = cfg.token()
	return s, errors.Join(append(errs, addressErr, tokenErr)...)
}

// validMount reports whether mount is a path with no slash or dot that leads elsewhere.
func validMount(mount string) bool {
	for segment := range strings.SplitSeq(mount, "/") {
		if segment == "" || segment == "." || segment == ".." || strings.ContainsFunc(segment, notInMount) {
			return false
		}
	}
	return true
}

func notInMount(r rune) bool {
	return r > unicode.MaxASCII || !unicode.IsLetter(r) && !unicode.IsDigit(r) && !strings.ContainsRune("._-", r)
}

// address returns the address of Vault.
func (cfg Config) address() (string, error) {
	address, source := firstOf(cfg.Address, "address", "VAULT_ADDR", "BAO_ADDR")
	if address == "" {
		return "", keypath.Errorf([]string{"address"}, "no address is given; give Vault's, as in https://vault.example:8200, here or in VAULT_ADDR or BAO_ADDR")
	}
	u, err := url.Parse(address)
	if err != nil || u.Host == "" || u.User != nil || u.RawQuery != "" || u.Fragment != "" {
		return "", keypath.Errorf([]string{"address"}, "%s should be a URL as in https://vault.example:8200", source)
	}
	if u.Scheme != "https" && (u.Scheme != "http" || !httputil.IsLoopback(u.Hostname())) {
		return "", keypath.Errorf([]string{"address"}, "%s is %s, and the token would go in clear; use https, or http to this machine's loopback address", source, address)
	}
	return address, nil
}

// firstOf returns value, otherwise the first of the environment variables that is set, and the
// name of the source.
func firstOf(value, name string, variables ...string) (found, source string) {
	if value != "" {
		return value, name
	}
	for _, variable := range variables {
		if value := os.Getenv(variable); value != "" {
			return value, variable
		}
	}
	return "", name
}

// token returns the token and a description of its source. It does not read the files and helpers
// of Vault's command line, which belong to a person.
func (cfg Config) token() (token, source string, err error) {
	if cfg.TokenFile != "" {
		source = "the file " + cfg.TokenFile
		var line []byte
		line, _, err = files.ReadSecretLine(cfg.TokenFile, "a token") // a helper such as Vault Agent sets the file's mode
		token = string(line)
	} else if token, source = firstOf("", "", "VAULT_TOKEN", "BAO_TOKEN"); token == "" {
		err = errors.New("no token is given; name a file that holds it here, or set VAULT_TOKEN or BAO_TOKEN")
	}
	if err != nil {
		return "", "", keypath.Errorf([]string{"token_file"}, "%w", err)
	}
	if strings.ContainsFunc(token, func(r rune) bool { return r <= ' ' || r > '~' }) {
		return "", "", keypath.Errorf([]string{"token_file"}, "%s holds more than a token: there are spaces or line endings or signs that no token has", source)
	}
	return token, "the token of " + source, nil
}
