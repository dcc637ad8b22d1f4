// SPDX-License-Identifier: Apache-2.0

package app

import (
	"crypto"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/mayfly-ca/mayfly/ca/set"
	"github.com/mayfly-ca/mayfly/config"
	"github.com/mayfly-ca/mayfly/identity"
	"github.com/mayfly-ca/mayfly/internal/keypath"
	"github.com/mayfly-ca/mayfly/internal/pem"
	"github.com/mayfly-ca/mayfly/internal/trustroot"
	"github.com/mayfly-ca/mayfly/server"
)

// clientAudience is the audience that sigstore's clients sign in with.
const clientAudience = "sigstore"

// LoadInstance reads from the configuration what trusted_root.json and signing_config.v0.2.json
// contain. It opens no CA key, and sends no request.
func LoadInstance(options Options) (trustroot.Instance, error) {
	cfg, _, err := config.LoadServer(options.ConfigFile, options.Environ)
	if err != nil {
		return trustroot.Instance{}, err
	}
	if cfg.PublicURL == "" {
		return trustroot.Instance{}, fmt.Errorf("%s: %w", cfg.Name(), trustroot.ErrNotRendered)
	}
	issuers, _, err := config.LoadIssuers(cfg.Issuers, cfg.Compat, nil)
	if err != nil {
		return trustroot.Instance{}, err
	}
	var infos []server.IssuerInfo
	for _, issuer := range issuers.Entries {
		infos = append(infos, issuerInfo(&issuer.Profile))
	}
	instance, err := newInstance(cfg)
	if err != nil {
		return trustroot.Instance{}, cfg.WithPlaces(err)
	}
	windows, err := loadWindows(cfg, options.now()())
	if err != nil {
		return trustroot.Instance{}, err
	}
	return completeInstance(instance, windows, infos), nil
}

// newInstance is the part that never changes while a server runs. Its errors have key paths.
func newInstance(cfg *config.Server) (trustroot.Instance, error) {
	instance := trustroot.Instance{
		PublicURL:            cfg.PublicURL,
		TimestampAuthorities: cfg.Trust.TimestampAuthorities,
		TLogs:                cfg.Trust.TLogs,
	}
	var errs []error
	for i, entry := range cfg.CT.Logs {
		path := []string{"ct", "logs", strconv.Itoa(i)}
		log, err := trustedLog(entry, cfg.PublicURL)
		if err != nil {
			errs = append(errs, keypath.Prefix(err, path...))
			continue
		}
		instance.CTLogs = append(instance.CTLogs, log)
	}
	return instance, errors.Join(errs...)
}

// trustedLog is the URL and the key of a log. Its errors have key paths.
func trustedLog(entry config.CTLog, publicURL string) (log trustroot.CTLog, err error) {
	if entry.Embedded == nil {
		if log.PublicKey, err = readPEM(entry.PublicKey, "PUBLIC KEY"); err != nil {
			return log, keypath.Errorf([]string{"public_key"}, "reading the log's public key: %w", err)
		}
		log.URL = entry.URL
		return log, nil
	}
	der, err := readPEM(entry.Embedded.Key, "PRIVATE KEY")
	var key any
	if err == nil {
		key, err = x509.ParsePKCS8PrivateKey(der)
	}
	if err == nil {
		if signer, ok := key.(crypto.Signer); ok {
			log.PublicKey, err = x509.MarshalPKIXPublicKey(signer.Public())
		} else {
			err = errors.New("it holds no key for signatures")
		}
	}
	if err != nil {
		return log, keypath.Errorf([]string{"embedded", "key"}, "reading the log's key: %w", err)
	}
	log.URL = strings.TrimRight(publicURL, "/") + logPath(entry.Embedded.Name)
	return log, nil
}

// readPEM returns the content of the PEM block of a file.
func readPEM(name, kind string) ([]byte, error) {
	text, err := readFile(name)
	if err != nil {
		return nil, err
	}
	der, err := pem.One(text, kind)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	return der, nil
}

// Instance returns the content of the documents, from the running server's state.
func (a *App) Instance() trustroot.Instance {
	return completeInstance(a.instance, a.authorities.current.Load().Windows(a.authorities.now()), a.live.issuers())
}

// completeInstance adds the parts that may change at any time.
func completeInstance(instance trustroot.Instance, windows []set.Window, issuers []server.IssuerInfo) trustroot.Instance {
	for _, window := range windows {
		instance.Authorities = append(instance.Authorities, trustroot.Authority{Chain: window.Chain.Certificates, End: window.End})
	}
	for _, issuer := range issuers {
		if issuer.Type == identity.TypeEmail && !issuer.Wildcard && issuer.Audience == clientAudience {
			instance.Providers = append(instance.Providers, issuer.URL)
		}
	}
	return instance
}

// mounts returns what is served beside the APIs: the embedded logs, the two documents if the
// server's public URL is configured, and the mounts of the options.
func (a *App) mounts(options Options) []server.Mount {
	mounts := append(a.logs.mounts(), options.Mounts...)
	if a.Config.PublicURL == "" {
		return mounts
	}
	for name, render := range map[string]func(trustroot.Instance) ([]byte, error){
		trustroot.TrustedRootName:   trustroot.Instance.TrustedRoot,
		trustroot.SigningConfigName: trustroot.Instance.SigningConfig,
	} {
		handler := trustroot.Handler(
			func() ([]byte, error) { return render(a.Instance()) },
			func(r *http.Request, err error) {
				a.callers.LogAttrs(r.Context(), slog.LevelError, "rendering "+name, slog.String("cause", err.Error()))
			})
		mounts = append(mounts, server.Mount{Path: "/" + name, Name: "trust", Handler: handler})
	}
	return mounts
}

// checkDocuments refuses what would prevent the rendering of the documents. Its errors have key
// paths.
func (a *App) checkDocuments() error {
	if a.Config.PublicURL == "" {
		return nil
	}
	instance := a.Instance()
	if len(instance.Authorities) == 0 {
		return nil // the set warns of it, and its next edit brings one without a restart
	}
	_, errRoot := instance.TrustedRoot()
	_, errConfig := instance.SigningConfig()
	if err := errors.Join(errRoot, errConfig); err != nil {
		return keypath.Errorf([]string{"trust"}, "rendering %s and %s: %w", trustroot.TrustedRootName, trustroot.SigningConfigName, err)
	}
	return nil
}

// loadWindows reads the chains that the trust bundle has at now with their windows, without their
// keys. Its errors state their place.
func loadWindows(cfg *config.Server, now time.Time) ([]set.Window, error) {
	loaded, err := set.Read(cfg, now)
	if err != nil {
		return nil, err
	}
	return loaded.Set.Windows(now), nil
}
