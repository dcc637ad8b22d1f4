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
	if !isKubernetesLabel(namespace) {
		return refusal.New(refusal.ClaimInvalid, "the token's "+claim+" has the namespace %s; it must be an RFC 1123 label in lower case", quote(namespace))
	}
	// The API server lets a service account's name be several such labels, joined by dots.
	for label := range strings.SplitSeq(name, ".") {
		if !isKubernetesLabel(label) || len(name) > 253 {
			return refusal.New(refusal.ClaimInvalid, "the token's "+claim+" has the service account %s; it must be made of RFC 1123 labels in lower case", quote(name))
		}
	}
	id.SAN, err = uriSAN("https://kubernetes.io/namespaces/" + namespace + "/serviceaccounts/" + name)
	return err
}

func isKubernetesLabel(s string) bool { return isLabel(s) && strings.ToLower(s) == s }
