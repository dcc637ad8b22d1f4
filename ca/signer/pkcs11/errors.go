//go:build cgo

// SPDX-License-Identifier: Apache-2.0

package pkcs11

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	p11 "github.com/miekg/pkcs11"

	"github.com/mayfly-ca/mayfly/ca/signer"
)

// ErrNoKey is in the error of an Open if the token has no such private key. Generate may create it.
var ErrNoKey = errors.New("the token has no private key")

// remedies lists what helps after return values (section 5.1.6). Others are permanent.
var remedies = []struct {
	remedy signer.Remedy
	codes  []p11.Error
	text   string
}{
	{signer.Reopen, []p11.Error{
		p11.CKR_SESSION_HANDLE_INVALID, p11.CKR_SESSION_CLOSED, p11.CKR_KEY_HANDLE_INVALID, p11.CKR_OBJECT_HANDLE_INVALID,
		p11.CKR_USER_NOT_LOGGED_IN, p11.CKR_CRYPTOKI_NOT_INITIALIZED, p11.CKR_TOKEN_NOT_PRESENT, p11.CKR_TOKEN_NOT_RECOGNIZED,
		p11.CKR_DEVICE_REMOVED, p11.CKR_SLOT_ID_INVALID, p11.CKR_DEVICE_ERROR, p11.CKR_GENERAL_ERROR,
	}, "mayfly opens the key again; if it recurs, look at the token (pkcs11.token), the connection to it, and the log of its library (pkcs11.module)"},
	{signer.Retry, []p11.Error{
		p11.CKR_DEVICE_MEMORY, p11.CKR_HOST_MEMORY, p11.CKR_FUNCTION_FAILED, p11.CKR_FUNCTION_CANCELED, p11.CKR_OPERATION_ACTIVE, p11.CKR_OPERATION_NOT_INITIALIZED,
		p11.CKR_SESSION_READ_WRITE_SO_EXISTS, p11.CKR_USER_ANOTHER_ALREADY_LOGGED_IN, p11.CKR_USER_TOO_MANY_TYPES, p11.CKR_SESSION_COUNT,
	}, "mayfly tries again; if it recurs, look at the log of the token's library (pkcs11.module), and allow more sessions"},
	{0, []p11.Error{p11.CKR_PIN_LOCKED, p11.CKR_USER_PIN_NOT_INITIALIZED},
		"the user PIN is not set, or locked after too many wrong ones; the security officer must set it: pkcs11-tool --login --login-type so --init-pin"},
	{0, []p11.Error{p11.CKR_PIN_EXPIRED}, "run pkcs11-tool --login --change-pin, and put the new user PIN into pkcs11.pin_file"},
}

func remedyFor(err error) (signer.Remedy, string) {
	for _, r := range remedies {
		if is(err, r.codes...) {
			return r.remedy, r.text
		}
	}
	return 0, "see the manual of the module (pkcs11.module); CKM_ECDSA or CKM_RSA_PKCS and a key with CKA_SIGN are required"
}

// failure returns the error of a module's call; nil for nil.
func failure(call string, err error) error {
	if err == nil {
		return nil
	}
	remedy, text := remedyFor(err)
	err = fmt.Errorf("%s answered %s: %s", call, codeName(err), text)
	if remedy == 0 {
		return err
	}
	return &signer.Failure{Remedy: remedy, Err: err}
}

// codeName returns the code's name in the specification.
func codeName(err error) string {
	if _, name, found := strings.Cut(err.Error(), ": CKR_"); found {
		return "CKR_" + name
	}
	return err.Error()
}

// is reports whether err, of a module's call, is one of codes.
func is(err error, codes ...p11.Error) bool {
	var code p11.Error
	return errors.As(err, &code) && slices.Contains(codes, code)
}

// list returns names in their order, quoted.
func list(names []string) string {
	slices.Sort(names)
	return fmt.Sprintf("%q", slices.Compact(names))
}
