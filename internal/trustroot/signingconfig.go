// SPDX-License-Identifier: Apache-2.0

package trustroot

import (
	"encoding/json"
	"errors"
	"fmt"
	"time"
)

// The major versions of the services' APIs, as protobuf-specs counts them: the CA's is 1
// although the path of its REST API has v2.
const (
	versionCA        = 1
	versionProvider  = 1
	versionRekor     = 2
	versionTimestamp = 1
)

// signingConfig is SigningConfig v0.2. The two selections are present only where there is
// such a service: sigstore-js refuses an empty one.
type signingConfig struct {
	MediaType       string     `json:"mediaType"`
	CAURLs          []service  `json:"caUrls"`
	OIDCURLs        []service  `json:"oidcUrls,omitempty"`
	RekorTLogURLs   []service  `json:"rekorTlogUrls,omitempty"`
	RekorTLogConfig *selection `json:"rekorTlogConfig,omitempty"`
	TSAURLs         []service  `json:"tsaUrls,omitempty"`
	TSAConfig       *selection `json:"tsaConfig,omitempty"`
}

type service struct {
	URL             string    `json:"url"`
	MajorAPIVersion int       `json:"majorApiVersion"`
	ValidFor        timeRange `json:"validFor"`
	Operator        string    `json:"operator"`
}

type selection struct {
	Selector string `json:"selector"`
}

// SigningConfig renders signing_config.v0.2.json. It offers the transparency logs and
// timestamp authorities that have a URL and no end. It lists every such log as a Rekor v2
// log.
func (i Instance) SigningConfig() ([]byte, error) {
	if err := i.check(); err != nil {
		return nil, err
	}
	at := func(url string, version int) service {
		return service{URL: url, MajorAPIVersion: version, ValidFor: timeRange{Start: i.start()}, Operator: i.operator()}
	}
	document := signingConfig{MediaType: signingConfigType, CAURLs: []service{at(i.PublicURL, versionCA)}}
	for _, url := range i.Providers {
		document.OIDCURLs = append(document.OIDCURLs, at(url, versionProvider))
	}
	var err error
	if document.RekorTLogURLs, document.RekorTLogConfig, err = open(i.TLogs, versionRekor, at); err != nil {
		return nil, fmt.Errorf("reading a transparency log of the trusted root: %w", err)
	}
	if document.TSAURLs, document.TSAConfig, err = open(i.TimestampAuthorities, versionTimestamp, at); err != nil {
		return nil, fmt.Errorf("reading a timestamp authority of the trusted root: %w", err)
	}
	return marshal(document, "  ")
}

// open returns the services of the trusted root's entries that have a URL and no end.
func open(entries []json.RawMessage, version int, at func(string, int) service) (services []service, selected *selection, err error) {
	type validity struct{ End *time.Time }
	for _, raw := range entries {
		var entry struct {
			BaseURL, URI string // of a log, of a timestamp authority
			ValidFor     validity
			PublicKey    struct{ ValidFor validity }
		}
		if err := json.Unmarshal(raw, &entry); err != nil {
			return nil, nil, err
		}
		if url := entry.BaseURL + entry.URI; url != "" && entry.ValidFor.End == nil && entry.PublicKey.ValidFor.End == nil {
			services, selected = append(services, at(url, version)), &selection{"ANY"}
		}
	}
	return services, selected, nil
}

// ErrNotRendered states that an instance has no public URL, which the documents require.
var ErrNotRendered = errors.New("public_url is not set, and trusted_root.json and signing_config.v0.2.json would have to say it: add public_url, the URL at which clients reach this server")
