// SPDX-License-Identifier: Apache-2.0

package oidc

import (
	"slices"
	"strconv"

	"github.com/mayfly-ca/mayfly/internal/keypath"
)

// validateProfiles checks the profiles, and fills byAudience.
func (e *entry) validateProfiles() (errs []error) {
	e.byAudience = make(map[string]string)
	for _, audience := range e.Audiences {
		e.byAudience[audience] = ""
	}
	names := make(map[string]bool)
	for i, p := range e.Profiles {
		at := func(key string) []string { return e.path("profiles", strconv.Itoa(i), key) }
		if p.Name == "" || names[p.Name] {
			errs = append(errs, keypath.Errorf(at("name"), "the profile has no name, or that of another one"))
		}
		names[p.Name] = true
		if len(p.Audiences) == 0 || slices.Contains(p.Audiences, "") {
			errs = append(errs, keypath.Errorf(at("client-id"), "the profile has no audience, or an empty one; no token could be told to be for it"))
		}
		for _, audience := range p.Audiences {
			if other, ok := e.byAudience[audience]; ok && other != p.Name {
				errs = append(errs, keypath.Errorf(at("client-id"), "the audience %s stands for another profile of the issuer already, or for the entry itself; each audience can stand for one", quote(audience)))
				continue
			}
			e.byAudience[audience] = p.Name
		}
	}
	return errs
}

// allAudiences returns the audiences of the entry and its profiles.
func (e *entry) allAudiences() []string {
	all := slices.Clone(e.Audiences)
	for _, p := range e.Profiles {
		all = append(all, p.Audiences...)
	}
	return all
}
