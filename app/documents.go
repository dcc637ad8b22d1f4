// SPDX-License-Identifier: Apache-2.0

package app

import (
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"slices"
	"strconv"
	"strings"

	"github.com/mayfly-ca/mayfly/ca/set"
	"github.com/mayfly-ca/mayfly/ca/signer/file"
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
	instance, err := newInstance(cfg)
	if err != nil {
		return trustroot.Instance{}, cfg.WithPlaces(err)
	}
	loaded, err := set.Read(cfg, options.now()())
	if err != nil {
		return trustroot.Instance{}, err
	}
	return completeInstance(instance, loaded.Set.Windows(options.now()()), issuerInfos(issuers)), nil
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
		text, err := readFile(entry.PublicKey)
		if err == nil {
			log.PublicKey, err = pem.One(text, "PUBLIC KEY")
		}
		if err != nil {
			return log, keypath.Errorf([]string{"public_key"}, "reading the log's public key: %w", err)
		}
		log.URL = entry.URL
		return log, nil
	}
	key, _, err := file.Open(entry.Embedded.Key, "") // package embedded has checked it
	if err == nil {
		log.PublicKey, err = x509.MarshalPKIXPublicKey(key.Public())
	}
	if err != nil {
		return log, keypath.Errorf([]string{"embedded", "key"}, "reading the log's key: %w", keypath.All(err)[0].Err)
	}
	log.URL = strings.TrimRight(publicURL, "/") + logPath(entry.Embedded.Name)
	return log, nil
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
func (a *App) mounts() []server.Mount {
	mounts := slices.Clone(a.options.Mounts)
	for _, log := range a.embedded {
		mounts = append(mounts, server.Mount{Path: logPath(log.Name()) + "/", Name: "ctlog", Handler: log.Handler()})
	}
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
