// SPDX-License-Identifier: Apache-2.0

package file_test

import (
	"context"
	"testing"

	"github.com/mayfly-ca/mayfly/ca/signer"
	"github.com/mayfly-ca/mayfly/ca/signer/file"
	"github.com/mayfly-ca/mayfly/ca/signer/signertest"
)

func TestConformance(t *testing.T) {
	t.Parallel()
	path := vector(t, "pbes2-default.pem")
	open := func(path, password string) func(context.Context) (signer.Key, error) {
		passwordFile := write(t, "pass", []byte(password))
		return func(context.Context) (signer.Key, error) {
			key, _, err := file.Open(path, passwordFile)
			if err != nil {
				return nil, err
			}
			return signer.InMemory(key), nil
		}
	}
	right := open(path, "secret")
	key, err := right(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	signertest.Run(t, signertest.Place{
		Public: key.Public(), Open: right, InMemory: true, Secrets: []string{"secret", "guessed"},
		Mistakes: []signertest.Mistake{
			{Name: "wrong password", Open: open(path, "guessed"), Wants: []string{"pbes2-default.pem", "does not open the key"}},
			{Name: "no file", Open: open(path+".not-there", "secret"), Wants: []string{"pbes2-default.pem.not-there", "no such file"}},
		},
	})
}
