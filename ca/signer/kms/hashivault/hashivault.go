// SPDX-License-Identifier: Apache-2.0

// Package hashivault opens a private key of the transit engine of HashiCorp Vault or OpenBao.
//
// It uses Vault's own client. Sigstore's client takes no context and has no deadline, so that a
// Vault that hangs would block every call for ever. It also knows the public key of the newest
// version only, which after a rotation is not the version that signs.
//
// app and the commands may import it.
package hashivault

import (
	"context"
	"crypto"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"

	"github.com/hashicorp/vault/api"
	"github.com/sigstore/sigstore/pkg/signature/kms/hashivault"

	"github.com/mayfly-ca/mayfly/ca/signer"
	"github.com/mayfly-ca/mayfly/ca/signer/kms"
	"github.com/mayfly-ca/mayfly/internal/files"
	"github.com/mayfly-ca/mayfly/internal/keypath"
)

// maxAnswer bounds an answer of Vault: a key of a thousand versions takes 1 MiB.
const maxAnswer = 4 << 20

// Config names a key and its access.
type Config struct {
	// URI is hashivault://NAME or openbao://NAME, with the key's name in the transit engine.
	URI string
	// Version is the key's version that signs, from 1. It is mandatory: a rotation creates
	// another key, which is not that of the certificate.
	Version uint
	// Address is Vault's, as in https://vault.example:8200. http is allowed for loopback only,
	// as it sends the token in clear. Empty: VAULT_ADDR, or BAO_ADDR.
	Address string
	// TokenFile is the path of a file that holds the token and perhaps one line ending. Each
	// opening of the key reads it, so the operator may replace it while the token in it is
	// still valid. Empty: VAULT_TOKEN, or BAO_TOKEN.
	TokenFile string
	// Mount is the mount path of the transit engine; empty for "transit".
	Mount string
}

// Open requests the key's public half. Errors have the key paths ["uri"], ["version"],
// ["address"], ["token_file"] and ["mount"], and hold no part of the token.
//
// Vault's client reads the environment too: VAULT_CACERT, VAULT_CAPATH, VAULT_CLIENT_CERT,
// VAULT_CLIENT_KEY, VAULT_TLS_SERVER_NAME, VAULT_NAMESPACE, VAULT_PROXY_ADDR.
func Open(ctx context.Context, cfg Config) (signer.Key, error) {
	settings, err := cfg.check()
	if err != nil {
		return nil, err
	}
	client, err := newClient(settings)
	if err != nil {
		return nil, err
	}
	t := &transit{client: client.Logical(), settings: settings}
	service := settings.service()
	public, err := t.public(ctx)
	if err != nil {
		var mistake *keypath.Error
		if errors.As(err, &mistake) {
			return nil, err
		}
		return nil, service.Explain(ctx, err)
	}
	return kms.New(kms.Config{Public: public, Sign: t.sign, Service: service})
}

func newClient(s settings) (*api.Client, error) {
	cfg := api.DefaultConfig()
	if cfg.Error != nil {
		return nil, keypath.Errorf([]string{"address"}, "reading the VAULT_… variables of the environment: %w", cfg.Error)
	}
	if cfg.TLSConfig().InsecureSkipVerify {
		return nil, keypath.Errorf([]string{"address"}, "VAULT_SKIP_VERIFY is set in the environment, and would give the token to anybody; unset it, and name the authority of Vault's certificate in VAULT_CACERT")
	}
	cfg.Address, cfg.AgentAddress = s.address, ""
	cfg.MaxRetries, cfg.Timeout, cfg.Limiter = 0, 0, nil // a Signer does this by the context
	// A redirect over http could send the token in clear to any host.
	cfg.DisableRedirects = strings.HasPrefix(s.address, "http:")
	client, err := api.NewClient(cfg)
	if err != nil {
		return nil, keypath.Errorf([]string{"address"}, "%s: %w", s.address, err)
	}
	client.SetToken(s.token)
	return client, nil
}

// service describes Vault for the operator.
func (s settings) service() kms.Service {
	return kms.Service{
		Name: "Vault at " + s.address, URI: s.uri,
		// Vault returns 403 also for a token that is unknown or has expired.
		Permission: fmt.Sprintf("%s (kms.token_file) may have ended, and needs a policy with update on %s/sign/%s/* and read on %s/keys/%s",
			s.tokenSource, s.mount, s.name, s.mount, s.name),
		Reach:   "kms.address",
		Absence: fmt.Sprintf("look at kms.uri, and at kms.mount, which is %q", s.mount),
		Trust:   "name the file of its authority's certificate in VAULT_CACERT",
		Judge:   judge,
	}
}

// answerError is an answer of Vault that is an error.
type answerError struct {
	status int
	header http.Header
	err    error
}

func (e *answerError) Error() string { return e.err.Error() }
func (e *answerError) Unwrap() error { return e.err }

// judge classifies an answer: https://developer.hashicorp.com/vault/api-docs#http-status-codes.
// A sealed Vault returns 503. Only the health endpoint returns 472 and 473.
func judge(err error) kms.Verdict {
	var answer *answerError
	if !errors.As(err, &answer) {
		return kms.Verdict{}
	}
	switch v := kms.JudgeStatus(answer.status, answer.header); answer.status {
	case http.StatusPreconditionFailed: // a standby that lags behind
		return kms.Verdict{Meaning: kms.Passing}
	case http.StatusForbidden:
		v.Remedy = signer.Reopen // the token may have been replaced in its file
		return v
	default:
		return v
	}
}

// transit is the transit engine of one Vault.
type transit struct {
	client *api.Logical
	settings
}

// public returns the public key of the pinned version.
func (t *transit) public(ctx context.Context) (crypto.PublicKey, error) {
	response, err := t.client.ReadRawWithContext(ctx, t.mount+"/keys/"+t.name)
	body, err := read(response, err)
	if err != nil {
		return nil, err
	}
	return parseKey(body, t.version)
}

// sign lets Vault sign. It names the hash in the path, as sigstore does, so that one policy fits
// both.
func (t *transit) sign(ctx context.Context, digest []byte, hash crypto.Hash) ([]byte, error) {
	request, err := json.Marshal(map[string]any{
		"input": base64.StdEncoding.EncodeToString(digest), "prehashed": true,
		"key_version":         t.version,
		"signature_algorithm": "pkcs1v15", // for RSA keys, which default to PSS
	})
	if err != nil {
		return nil, fmt.Errorf("encoding the request: %w", err)
	}
	response, err := t.client.WriteRawWithContext(ctx, fmt.Sprintf("%s/sign/%s/sha2-%d", t.mount, t.name, hash.Size()*8), request)
	body, err := read(response, err)
	if err != nil {
		return nil, err
	}
	return parseSignature(body, t.version)
}

// read returns the body of an answer.
func read(response *api.Response, err error) ([]byte, error) {
	if response != nil {
		defer func() { _ = response.Body.Close() }()
	}
	switch {
	case err != nil && response != nil:
		return nil, &answerError{response.StatusCode, response.Header, err}
	case err != nil:
		return nil, err
	case response.StatusCode != http.StatusOK: // a redirect that is not followed
		return nil, fmt.Errorf("the answer is %q, which is not one of the transit engine", response.Status)
	}
	body, err := files.ReadAll(response.Body, maxAnswer)
	if err != nil {
		return nil, fmt.Errorf("reading the answer: %w", err)
	}
	if len(body) > maxAnswer {
		return nil, fmt.Errorf("the answer is larger than %d bytes", maxAnswer)
	}
	return body, nil
}

// validURI reports whether uri has the form that sigstore's tools take.
func validURI(uri string) (name string, ok bool) {
	if hashivault.ValidReference(uri) != nil {
		return "", false
	}
	_, name, ok = strings.Cut(uri, "://")
	return name, ok
}

// versionText returns version as Vault writes it.
func versionText(version uint) string { return strconv.FormatUint(uint64(version), 10) }
