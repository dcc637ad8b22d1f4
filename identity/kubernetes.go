// SPDX-License-Identifier: Apache-2.0

package identity

import (
	"strings"

	"github.com/mayfly-ca/mayfly/internal/refusal"
	"github.com/mayfly-ca/mayfly/oidc"
)

// kubernetes is the rule of type kubernetes: a service account, by namespace and name.
type kubernetes struct{}

func (kubernetes) identify(tok *oidc.Token, id *Identity) error {
	const claim = `claim "kubernetes.io"`
	object, err := memberObject(tok.Claims, "kubernetes.io", claim)
	if err != nil {
		return err
	}
	namespace, err := memberText(object, "namespace", claim+`, member "namespace",`)
	if err != nil {
		return err
	}
	account, err := memberObject(object, "serviceaccount", claim+`, member "serviceaccount",`)
	if err != nil {
		return err
	}
	name, err := memberText(account, "name", claim+`, member "serviceaccount", member "name",`)
	if err != nil {
		return err
	}
	if !isLabel(namespace) || strings.ToLower(namespace) != namespace {
		return refusal.New(refusal.ClaimInvalid, "the token's "+claim+" has the namespace %s; it must be an RFC 1123 label in lower case", quote(namespace))
	}
	if !isServiceAccountName(name) {
		return refusal.New(refusal.ClaimInvalid, "the token's "+claim+" has the service account %s; it must be made of RFC 1123 labels in lower case, 253 characters at most", quote(name))
	}
	id.SAN, err = uriSAN("https://kubernetes.io/namespaces/" + namespace + "/serviceaccounts/" + name)
	return err
}

// isServiceAccountName reports whether the API server accepts s as the name of a service account:
// labels joined by dots, with a limit on their sum and not on each (DNS-1123 subdomain, Kubernetes
// documentation, "Object Names and IDs").
func isServiceAccountName(s string) bool {
	for label := range strings.SplitSeq(s, ".") {
		if !isLabelOfAnyLength(label) {
			return false
		}
	}
	return len(s) <= 253 && strings.ToLower(s) == s
}
