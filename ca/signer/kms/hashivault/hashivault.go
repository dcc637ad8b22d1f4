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
	"cmp"
	"context"
	"crypto"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"regexp"
	"strings"

	"github.com/hashicorp/vault/api"

	"github.com/mayfly-ca/mayfly/ca/signer"
	"github.com/mayfly-ca/mayfly/ca/signer/kms"
	"github.com/mayfly-ca/mayfly/internal/files"
	"github.com/mayfly-ca/mayfly/internal/httputil"
	"github.com/mayfly-ca/mayfly/internal/keypath"
	"github.com/mayfly-ca/mayfly/internal/pem"
)

// maxAnswer bounds an answer of Vault: a key of a thousand versions takes 1 MiB.
const maxAnswer = 4 << 20

// Config names a key and its access.
type Config signer.KMS

var (
	validURI = regexp.MustCompile(`^(?:hashivault|openbao)://(\w(?:[\w.-]*\w)?)$`)
	// validMount matches a path with no segment that leads elsewhere.
	validMount = regexp.MustCompile(`^(?:[A-Za-z0-9_-][A-Za-z0-9._-]*/)*[A-Za-z0-9_-][A-Za-z0-9._-]*$`)
	validToken = regexp.MustCompile(`^[!-~]+$`)
)

// transit is a key of the transit engine: a Config after its check, with the values from the
// environment.
type transit struct {
	name, address, caFile, mount, token, tokenSource string
	version                                          uint64
	client                                           *api.Logical
}

// check returns all mistakes at once.
func (cfg Config) check() (*transit, error) {
	t := &transit{
		version: cfg.Version, caFile: cfg.CAFile, mount: cmp.Or(cfg.Mount, "transit"), address: cmp.Or(cfg.Address, os.Getenv("VAULT_ADDR"), os.Getenv("BAO_ADDR")),
		token: cmp.Or(os.Getenv("VAULT_TOKEN"), os.Getenv("BAO_TOKEN")), tokenSource: "VAULT_TOKEN or BAO_TOKEN",
	}
	var errs []error
	mistake := func(key, format string, args ...any) {
		errs = append(errs, keypath.Errorf([]string{key}, format, args...))
	}
	if match := validURI.FindStringSubmatch(cfg.URI); match != nil {
		t.name = match[1]
	} else {
		mistake("uri", "%q should be hashivault://NAME or openbao://NAME, with the key's name in the transit engine", cfg.URI)
	}
	if cfg.Version == 0 {
		mistake("version", "no version is given; give the key's version that belongs to the certificate, from 1, since a rotation creates another key")
	}
	if !validMount.MatchString(t.mount) {
		mistake("mount", "%q should be the path of the transit engine without slashes at its ends", t.mount)
	}
	u, err := url.Parse(t.address)
	if err != nil || u.Host == "" || u.User != nil || u.RawQuery != "" || u.Fragment != "" ||
		u.Scheme != "https" && (u.Scheme != "http" || !httputil.IsLoopback(u.Hostname())) {
		mistake("address", "the address, here or in VAULT_ADDR or BAO_ADDR, should be a URL as in https://vault.example:8200; http, which sends the token in clear, is for loopback only")
	}
	// Files and helpers of Vault's command line belong to a person, and are not read.
	if cfg.TokenFile != "" {
		line, _, err := files.ReadSecretLine(cfg.TokenFile, "a token") // a helper such as Vault Agent sets the file's mode
		if err != nil {
			mistake("token_file", "%w", err)
		}
		t.token, t.tokenSource = string(line), "the file "+cfg.TokenFile
	}
	if !validToken.MatchString(t.token) && (cfg.TokenFile == "" || t.token != "") {
		mistake("token_file", "%s should hold a token alone: there is none, or there are spaces or line endings", t.tokenSource)
	}
	return t, errors.Join(errs...)
}

// Open requests the key's public half. Errors of settings have their key paths, and hold no part of
// the token.
//
// Vault's client reads the environment too: VAULT_CACERT, VAULT_CAPATH, VAULT_CLIENT_CERT,
// VAULT_CLIENT_KEY, VAULT_TLS_SERVER_NAME, VAULT_NAMESPACE, VAULT_PROXY_ADDR.
func Open(ctx context.Context, cfg Config) (signer.Key, error) {
	t, err := cfg.check()
	if err != nil {
		return nil, err
	}
	client, err := t.newClient()
	if err != nil {
		return nil, err
	}
	t.client = client.Logical()
	service := kms.Service{
		Name: "Vault at " + t.address, URI: cfg.URI, Status: status,
		// Vault returns 403 also for a token that is unknown or has expired.
		Hint: fmt.Sprintf("look at kms.uri and kms.mount (%s), and at the token of %s (kms.token_file), which may have expired, and needs a policy with update on %[1]s/sign/%[3]s/* and read on %[1]s/keys/%[3]s", t.mount, t.tokenSource, t.name),
	}
	body, err := read(t.client.ReadRawWithContext(ctx, t.mount+"/keys/"+t.name))
	if err != nil {
		return nil, service.Explain(ctx, err)
	}
	public, err := parseKey(body, t.version)
	if err != nil {
		return nil, err
	}
	return kms.New(kms.Config{Public: public, Sign: t.sign, Service: service})
}

func (t *transit) newClient() (*api.Client, error) {
	cfg := api.DefaultConfig()
	if cfg.Error != nil {
		return nil, keypath.Errorf([]string{"address"}, "reading the VAULT_… variables of the environment: %w", cfg.Error)
	}
	if cfg.TLSConfig().InsecureSkipVerify {
		return nil, keypath.Errorf([]string{"address"}, "VAULT_SKIP_VERIFY is set in the environment, and would give the token to any host; unset it, and name the authority of Vault's certificate in VAULT_CACERT")
	}
	if t.caFile != "" {
		if err := cfg.ConfigureTLS(&api.TLSConfig{CACert: t.caFile}); err != nil {
			return nil, keypath.Errorf([]string{"ca_file"}, "reading the CA certificates: %w", err)
		}
	}
	cfg.Address, cfg.AgentAddress = t.address, ""
	cfg.MaxRetries, cfg.Timeout, cfg.Limiter = 0, 0, nil // a Signer does this by the context
	// A redirect over http could send the token in clear to any host.
	cfg.DisableRedirects = strings.HasPrefix(t.address, "http:")
	client, err := api.NewClient(cfg)
	if err != nil {
		return nil, keypath.Errorf([]string{"address"}, "%s: %w", t.address, err)
	}
	client.SetToken(t.token)
	return client, nil
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
	body, err := read(t.client.WriteRawWithContext(ctx, fmt.Sprintf("%s/sign/%s/sha2-%d", t.mount, t.name, hash.Size()*8), request))
	if err != nil {
		return nil, err
	}
	return parseSignature(body, t.version)
}

// answerError is an answer of Vault that is an error.
type answerError struct {
	error
	response *api.Response
}

// status implements kms.Service.Status: https://developer.hashicorp.com/vault/api-docs#http-status-codes.
func status(err error) (int, http.Header) {
	var answer *answerError
	if !errors.As(err, &answer) {
		return 0, nil
	}
	status := answer.response.StatusCode
	if status == http.StatusPreconditionFailed { // a standby that lags behind
		status = http.StatusServiceUnavailable
	}
	return status, answer.response.Header
}

// read returns the body of an answer.
func read(response *api.Response, err error) ([]byte, error) {
	if response == nil {
		return nil, err
	}
	defer func() { _ = response.Body.Close() }()
	if err != nil {
		return nil, &answerError{err, response}
	}
	if response.StatusCode != http.StatusOK { // a redirect that is not followed
		return nil, &answerError{fmt.Errorf("the answer is %q", response.Status), response}
	}
	return files.ReadAll(response.Body, maxAnswer)
}

// parseKey returns the public key of version in the answer to a read of a transit key.
func parseKey(body []byte, version uint64) (crypto.PublicKey, error) {
	var answer struct {
		Data struct {
			Type string
			Keys map[string]json.RawMessage
		}
	}
	if err := json.Unmarshal(body, &answer); err != nil {
		return nil, fmt.Errorf("parsing the key: %w", err)
	}
	raw, ok := answer.Data.Keys[fmt.Sprint(version)]
	if !ok {
		return nil, keypath.Errorf([]string{"version"}, "the key has no version %d", version)
	}
	var key struct {
		PublicKey string `json:"public_key"`
	}
	// The versions of a symmetric key are timestamps, and an Ed25519 key is not PEM.
	err := json.Unmarshal(raw, &key)
	der, pemErr := pem.One([]byte(key.PublicKey), "PUBLIC KEY")
	if err != nil || pemErr != nil {
		return nil, keypath.Errorf([]string{"uri"}, "the key is of type %q; name a key of type ecdsa-p256, ecdsa-p384, ecdsa-p521, rsa-2048, rsa-3072 or rsa-4096", answer.Data.Type)
	}
	return x509.ParsePKIXPublicKey(der)
}

// parseSignature returns the signature in the answer to a signing request, which is
// "vault:v" version ":" base64.
func parseSignature(body []byte, version uint64) ([]byte, error) {
	var answer struct{ Data struct{ Signature string } }
	if err := json.Unmarshal(body, &answer); err != nil {
		return nil, fmt.Errorf("parsing the signature: %w", err)
	}
	encoded, ok := strings.CutPrefix(answer.Data.Signature, fmt.Sprintf("vault:v%d:", version))
	signature, err := base64.StdEncoding.DecodeString(encoded)
	if !ok || err != nil || len(signature) == 0 {
		return nil, fmt.Errorf("the signature %.40q is not vault:v%d: and base64", answer.Data.Signature, version)
	}
	return signature, nil
}
