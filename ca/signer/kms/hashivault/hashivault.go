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
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"

	"github.com/hashicorp/vault/api"

	"github.com/mayfly-ca/mayfly/ca/signer"
	"github.com/mayfly-ca/mayfly/ca/signer/kms"
	"github.com/mayfly-ca/mayfly/internal/files"
	"github.com/mayfly-ca/mayfly/internal/keypath"
	"github.com/mayfly-ca/mayfly/internal/pem"
)

// maxAnswer bounds an answer of Vault: a key of a thousand versions takes 1 MiB.
const maxAnswer = 4 << 20

// Open requests the key's public half. Errors of settings have their key paths, and hold no part of
// the token.
//
// Vault's client reads the environment too: VAULT_CACERT, VAULT_CAPATH, VAULT_CLIENT_CERT,
// VAULT_CLIENT_KEY, VAULT_TLS_SERVER_NAME, VAULT_NAMESPACE, VAULT_PROXY_ADDR.
func Open(ctx context.Context, cfg Config) (signer.Key, error) {
	t := &transit{}
	var err error
	if t.settings, err = cfg.check(); err != nil {
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
		Hint: fmt.Sprintf("look at kms.uri and kms.mount (%s), and at %s (kms.token_file), which may have expired, and needs a policy with update on %[1]s/sign/%[3]s/* and read on %[1]s/keys/%[3]s", t.mount, t.tokenSource, t.name),
	}
	public, err := t.public(ctx)
	if err != nil {
		if mistake := (*keypath.Error)(nil); errors.As(err, &mistake) {
			return nil, err
		}
		return nil, service.Explain(ctx, err)
	}
	return kms.New(kms.Config{Public: public, Sign: t.sign, Service: service})
}

// transit is a key of the transit engine.
type transit struct {
	settings
	client *api.Logical
}

func (s settings) newClient() (*api.Client, error) {
	cfg := api.DefaultConfig()
	if cfg.Error != nil {
		return nil, keypath.Errorf([]string{"address"}, "reading the VAULT_… variables of the environment: %w", cfg.Error)
	}
	if cfg.TLSConfig().InsecureSkipVerify {
		return nil, keypath.Errorf([]string{"address"}, "VAULT_SKIP_VERIFY is set in the environment, and would give the token to any host; unset it, and name the authority of Vault's certificate in VAULT_CACERT")
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

// public returns the public key of the configured version.
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

// answerError is an answer of Vault that is an error.
type answerError struct {
	response *api.Response
	err      error
}

func (e *answerError) Error() string { return e.err.Error() }

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
		return nil, &answerError{response, err}
	}
	if response.StatusCode != http.StatusOK { // a redirect that is not followed
		return nil, &answerError{response, fmt.Errorf("the answer is %q", response.Status)}
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
