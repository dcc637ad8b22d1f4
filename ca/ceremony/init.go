// SPDX-License-Identifier: Apache-2.0

package ceremony

import (
	"crypto"
	"crypto/x509"
	"errors"
	"fmt"
	"path/filepath"
	"time"

	"github.com/mayfly-ca/mayfly/internal/pem"
)

// InitConfig describes a new CA.
type InitConfig struct {
	// Dir is the folder for the CA. It must not exist, or be empty.
	Dir string
	// Organization is the O of both certificates; "" for "mayfly".
	Organization string
	// CommonName begins the CN of both, which end in "root" and "intermediate" and the
	// authority's ID; "" for Organization.
	CommonName string
	// Algorithm is of both keys, one of Algorithms(); "" for DefaultAlgorithm, or for the
	// algorithm of an existing key.
	Algorithm string
	// Password encrypts the intermediate's key; empty to generate one. Either way it is
	// written beside the key, since a server that starts unattended needs it.
	Password []byte
	// RootPassword encrypts the root's key and is not written to a file; empty to generate
	// one, which is written beside the root's key.
	RootPassword []byte
	// Signer and RootSigner are keys outside the CA's files; nil to generate one in a file.
	// They exclude Password and RootPassword.
	Signer, RootSigner *ExternalKey
	// Now is the clock; nil for time.Now. The root is valid for 10 years from then, the
	// intermediate for 3.
	Now func() time.Time
}

// Result is what Init created. All paths begin with InitConfig.Dir. It holds no secret.
type Result struct {
	// AuthorityID names the authority in the CA set, as in 2026-a.
	AuthorityID string
	// SetFile is the CA set, ca.yaml.
	SetFile string
	// ChainFile is PEM, the intermediate first and the root last.
	ChainFile string
	// KeyFile is the intermediate's encrypted key, PasswordFile its password; "" if the key is
	// an ExternalKey.
	KeyFile, PasswordFile string
	// RootDir holds root.pem, the root's encrypted key as key.pem, and pass if the password
	// was generated; for an ExternalKey, signer.yaml in their place. The operator must take
	// it offline: the server never reads it.
	RootDir string
	// Keys describe each ExternalKey, the root's first.
	Keys []string
	// Root and Intermediate are the new certificates.
	Root, Intermediate *x509.Certificate
}

// The names of the files that Init writes, relative to Dir.
const (
	setFile      = "ca.yaml"
	rootDir      = "root"
	chainFile    = "chain.pem"
	keyFile      = "key.pem"
	passwordFile = "pass"
	rootFile     = "root.pem"
)

// Init creates a root, an intermediate and a CA set in an empty folder:
//
//	ca.yaml                               the CA set, one authority, active at once
//	2026-a/chain.pem, key.pem, pass       the intermediate
//	root/root.pem, key.pem, pass          the root
//
// Folders have mode 0700, keys and passwords 0600. The files are durable when Init returns;
// ca.yaml appears last. If Init fails, it leaves nothing behind except external keys that it
// generated, which the error names. If the machine stops meanwhile, there is no ca.yaml.
func Init(cfg InitConfig) (result *Result, err error) {
	cfg = cfg.withDefaults()
	if err := cfg.Check(); err != nil {
		return nil, err
	}
	defer func() { err = cfg.Signer.Stays(cfg.RootSigner.Stays(err)) }()
	place, err := reserve(cfg.Dir)
	if err != nil {
		return nil, fmt.Errorf("writing the CA to %s: %w", cfg.Dir, err)
	}
	defer func() { err = place.release(err) }()
	now := cfg.Now().UTC().Truncate(time.Second)
	id := fmt.Sprintf("%d-a", now.Year())
	rootKey, root, err := cfg.newRoot(now)
	if err != nil {
		return nil, err
	}
	key, intermediate, err := cfg.newIntermediate(id, root, rootKey)
	if err != nil {
		return nil, err
	}
	files, err := cfg.files(id, authority{rootKey, root}, authority{key, intermediate})
	if err != nil {
		return nil, err
	}
	if err := place.write(files); err != nil {
		return nil, fmt.Errorf("writing the CA to %s: %w", cfg.Dir, err)
	}
	return cfg.result(id, root, intermediate), nil
}

func (cfg InitConfig) result(id string, root, intermediate *x509.Certificate) *Result {
	result := &Result{
		AuthorityID:  id,
		SetFile:      filepath.Join(cfg.Dir, setFile),
		ChainFile:    filepath.Join(cfg.Dir, id, chainFile),
		RootDir:      filepath.Join(cfg.Dir, rootDir),
		Root:         root,
		Intermediate: intermediate,
	}
	if cfg.Signer == nil {
		result.KeyFile, result.PasswordFile = filepath.Join(cfg.Dir, id, keyFile), filepath.Join(cfg.Dir, id, passwordFile)
	}
	if cfg.RootSigner != nil {
		result.Keys = append(result.Keys, "The key of root: "+cfg.RootSigner.describe()+".")
	}
	if cfg.Signer != nil {
		result.Keys = append(result.Keys, "The key of "+id+": "+cfg.Signer.describe()+".")
	}
	return result
}

func (cfg InitConfig) withDefaults() InitConfig {
	if cfg.Dir != "" {
		cfg.Dir = filepath.Clean(cfg.Dir)
	}
	if cfg.Organization == "" {
		cfg.Organization = "mayfly"
	}
	if cfg.CommonName == "" {
		cfg.CommonName = cfg.Organization
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	return cfg
}

// Check reports every mistake that can be found without opening or generating a key.
func (cfg InitConfig) Check() error {
	cfg = cfg.withDefaults()
	var errs []error
	if cfg.Dir == "" {
		errs = append(errs, errors.New("no folder is named that should get the CA"))
	} else if err := checkEmpty(cfg.Dir); err != nil {
		errs = append(errs, err)
	}
	errs = append(errs,
		checkName("common name", cfg.CommonName, maxName-len(" intermediate 2026-a")),
		checkName("organization", cfg.Organization, maxName),
		checkAlgorithm(cfg.Algorithm),
		checkKeySource(cfg.Signer, cfg.Algorithm, "password", cfg.Password),
		checkKeySource(cfg.RootSigner, cfg.Algorithm, "root password", cfg.RootPassword),
		checkDistinct(cfg.RootSigner, cfg.Signer))
	return errors.Join(errs...)
}

func (cfg InitConfig) newRoot(now time.Time) (crypto.Signer, *x509.Certificate, error) {
	key, err := newKey(cfg.RootSigner, cfg.Algorithm)
	if err != nil {
		return nil, nil, err
	}
	root, err := Root(RootConfig{
		Subject:   Subject{CommonName: cfg.CommonName + " root", Organization: cfg.Organization},
		Signer:    key,
		NotBefore: now,
	})
	return key, root, err
}

func (cfg InitConfig) newIntermediate(id string, root *x509.Certificate, rootKey crypto.Signer) (crypto.Signer, *x509.Certificate, error) {
	key, err := newKey(cfg.Signer, cfg.Algorithm)
	if err != nil {
		return nil, nil, err
	}
	intermediate, err := Intermediate(IntermediateConfig{
		Subject:      Subject{CommonName: cfg.CommonName + " intermediate " + id, Organization: cfg.Organization},
		PublicKey:    key.Public(),
		Parent:       root,
		ParentSigner: rootKey,
		NotBefore:    root.NotBefore,
	})
	return key, intermediate, err
}

// authority is a CA certificate and its key.
type authority struct {
	key         crypto.Signer
	certificate *x509.Certificate
}

// files returns all files to write, in the order in which they may appear.
func (cfg InitConfig) files(id string, root, intermediate authority) ([]file, error) {
	rootPEM, intermediatePEM := certificatePEM(root.certificate), certificatePEM(intermediate.certificate)
	rootKey, err := rootKeyFiles(root.key, cfg.RootSigner, filepath.Join(cfg.Dir, rootDir), cfg.RootPassword)
	if err != nil {
		return nil, err
	}
	key, block, err := keyFiles(id, intermediate.key, cfg.Signer, cfg.Dir, cfg.Password)
	if err != nil {
		return nil, err
	}
	files := append(rootKey, file{rootDir, rootFile, publicMode, rootPEM})
	files = append(files, key...)
	return append(files,
		file{id, chainFile, publicMode, append(intermediatePEM, rootPEM...)},
		file{"", setFile, publicMode, caSet(id, block, intermediate.certificate.NotBefore)}), nil
}

// keyFiles returns the files of an intermediate's key in folder, which is below dir, and the
// `signer` that names it in a file of dir.
func keyFiles(folder string, key crypto.Signer, external *ExternalKey, dir string, chosen []byte) (files []file, block string, err error) {
	if external != nil {
		block, err = external.Block(dir)
		return nil, block, err
	}
	secret := newPassword(chosen)
	encrypted, err := encryptKey(key, secret)
	if err != nil {
		return nil, "", err
	}
	return []file{{folder, passwordFile, secretMode, secret.file()}, {folder, keyFile, secretMode, encrypted}},
		fmt.Sprintf("{file: {key: %[1]s/%[2]s, password_file: %[1]s/%[3]s}}", folder, keyFile, passwordFile), nil
}

// rootKeyFiles returns the files of a root's key. It writes no chosen password: a server that
// starts unattended needs one, a root does not.
func rootKeyFiles(key crypto.Signer, external *ExternalKey, dir string, chosen []byte) ([]file, error) {
	if external != nil {
		f, err := external.file(rootDir, dir)
		return []file{f}, err
	}
	secret := newPassword(chosen)
	encrypted, err := encryptKey(key, secret)
	if err != nil {
		return nil, err
	}
	files := []file{{rootDir, keyFile, secretMode, encrypted}}
	if secret.drawn {
		files = append(files, file{rootDir, passwordFile, secretMode, secret.file()})
	}
	return files, nil
}

func certificatePEM(c *x509.Certificate) []byte {
	return pem.Encode("CERTIFICATE", c.Raw)
}

// caSet returns a CA set of one authority with the key of block, published and active from
// begin.
func caSet(id, block string, begin time.Time) []byte {
	return fmt.Appendf(nil, `# The CA set, made by mayfly ca init. Paths are relative to this file.
# Nothing here reads %[3]s/: take it offline.
generation: 1
authorities:
  - id: %[1]s
    chain: %[1]s/%[4]s # intermediate first, root last
    signer: %[5]s
    publish_at: %[2]s
    activate_at: %[2]s
`, id, begin.UTC().Format(time.RFC3339), rootDir, chainFile, block)
}
