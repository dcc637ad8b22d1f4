// SPDX-License-Identifier: Apache-2.0

package migrate

import (
	"encoding/json"
	"errors"
	"path/filepath"
	"regexp"
	"strings"
	"time"

	"github.com/mayfly-ca/mayfly/ca"
)

// crypto11 has the keys of crypto11.conf; those after the first three mean nothing to mayfly.
type crypto11 struct {
	Path, TokenLabel, Pin                                     string
	TokenSerial, SlotNumber, MaxSessions, PoolWaitTimeout     json.RawMessage
	UserType, LoginNotSupported, UseGCMIVFromHSM, GCMIVLength json.RawMessage
}

// Password reports whether the key's password is known.
func (p *plan) Password() bool { return p.Text("ca") == "fileca" && p.Text("fileca-key-passwd") != "" }

// ChainOf is the setting that names the chain of the authority.
func (p *plan) ChainOf() string {
	return map[string]string{"fileca": "fileca-cert", "kmsca": "kms-cert-chain-path", "pkcs11ca": "aws-hsm-root-ca-path"}[p.Text("ca")]
}

// ChainPath is the path of the chain in ca.yaml.
func (p *plan) ChainPath() string { return p.Path(p.ChainOf()) }

// Scheme is the key-management service, which is also the build tag of mayfly for it; "" for none.
func (p *plan) Scheme() string {
	scheme, _, _ := strings.Cut(p.KeyURI, "://")
	return scheme
}

// AssumesVersion reports whether the version of the key is not known: in Fulcio it is the newest.
func (p *plan) AssumesVersion() bool { return p.Scheme() == "hashivault" }

// Tag is the build tag that the authority's key needs; "" for none.
func (p *plan) Tag() string {
	if p.Text("ca") == "pkcs11ca" && p.CASet == "" {
		return "pkcs11"
	}
	return p.Scheme()
}

// secrets returns the files with secrets, by name.
func (p *plan) secrets() map[string]string {
	secrets := map[string]string{}
	if p.CASet == "" && p.Password() {
		secrets["fulcio-key-password"] = p.Text("fileca-key-passwd")
	}
	if p.PKCS11.Pin != "" {
		secrets["fulcio-pin"] = p.PKCS11.Pin
	}
	return secrets
}

// readAuthority reads the chain of Fulcio's authority, and where its key is.
func (p *plan) readAuthority() {
	if p.CASet != "" {
		p.CASet, _ = filepath.Abs(p.CASet)
		return
	}
	switch p.Text("ca") {
	case "fileca":
		if p.Text("fileca-key") == "" && p.HelmValues == "" {
			p.wrongSetting("fileca-key", "it is missing: name the PEM file of the key")
		}
	case "kmsca":
		p.readKeyURI()
	case "pkcs11ca":
		p.read("pkcs11-config-path", p.readPKCS11)
	case "":
		p.wrongSetting("ca", "it is missing: state with --set ca=… where Fulcio's key is, or name a new CA set with --ca-set")
		return
	default:
		p.wrongSetting("ca", "%s: %s; then migrate all else with --ca-set ca/ca.yaml", p.Text("ca"), strings.ReplaceAll(p.Refused[p.Text("ca")], "`", ""))
		return
	}
	p.readChain()
}

// readChain reads the chain of the authority. It signs from the beginning of the chain.
func (p *plan) readChain() {
	of := p.ChainOf()
	if p.Text(of) == "" {
		hint := "name the PEM file with the issuing CA first and the root last"
		if p.Text("ca") == "pkcs11ca" {
			hint = "export it: pkcs11-tool --module MODULE --read-object --type cert --id " + p.Text("hsm-caroot-id") + " | openssl x509 -inform DER -out chain.pem"
		} else if p.Text("ca") == "fileca" && p.HelmValues != "" {
			hint = "export it: kubectl get secret fulcio-server-secret -o jsonpath='{.data.cert}' | base64 -d > chain.pem"
		}
		p.wrongSetting(of, "the chain of the authority is missing: %s; then --set %s=FILE", hint, of)
		return
	}
	p.Chain = p.read(of, func(content []byte) error {
		chain, err := ca.ParseChain(content)
		if err == nil {
			p.Begin = chain.NotBefore.UTC().Format(time.RFC3339)
		}
		return err
	})
}

var gcpVersion = regexp.MustCompile(`/(?:cryptoKeyVersions|versions)/(\d+)$`)

// readKeyURI decides kms.uri. mayfly has the same services, and requires the version of a key.
func (p *plan) readKeyURI() {
	const of = "kms-resource"
	uri := p.Text(of)
	p.KeyURI = gcpVersion.ReplaceAllString(uri, "/cryptoKeyVersions/$1")
	switch scheme := p.Scheme(); {
	case scheme == "":
		p.wrongSetting(of, "it is missing: name the key with --set %s=URI", of)
	case scheme == "gcpkms" && p.KeyURI == uri && !strings.Contains(uri, "/cryptoKeyVersions/"):
		p.wrongSetting(of, "the version of the key is missing: --set %s=%s/cryptoKeyVersions/1 names that of the certificate (gcloud kms keys versions list)", of, uri)
	case scheme == "azurekms" && (strings.Count(uri, "/") != 4 || strings.HasSuffix(uri, "/")):
		p.wrongSetting(of, "found %q, expected azurekms://HOST/KEY/VERSION (az keyvault key show --query key.kid); name it with --set %s=…", uri, of)
	}
}

// readPKCS11 reads crypto11.conf.
func (p *plan) readPKCS11(content []byte) error {
	decoder := json.NewDecoder(strings.NewReader(string(content)))
	decoder.DisallowUnknownFields()
	switch err := decoder.Decode(&p.PKCS11); {
	case errors.As(err, new(*json.SyntaxError)):
		return errors.New("it is no JSON") // the error's text may have a part of the PIN
	case err == nil && (p.PKCS11.Path == "" || p.PKCS11.TokenLabel == ""):
		return errors.New("Path or TokenLabel is missing; mayfly finds a token by its label (pkcs11-tool --module MODULE --list-token-slots)")
	default:
		return err
	}
}
