//go:build cgo

// SPDX-License-Identifier: Apache-2.0

package pkcs11

import (
	"errors"
	"fmt"
	"strings"

	p11 "github.com/miekg/pkcs11"

	"github.com/mayfly-ca/mayfly/ca/signer"
)

var (
	// ErrNoKey is in the error of an Open if the token has no such private key. Generate may
	// create it.
	ErrNoKey = errors.New("the token has no private key")
	// ErrKeyExists is in the error of a Generate if the token already has the private key. Open
	// opens it.
	ErrKeyExists = errors.New("the token has a private key already")

	errAnotherLogin = errors.New("another caller logged in to the token (pkcs11.token) meanwhile, after which the key is looked up again")
)

// failure adds to the error of a module's call what may help after it: see section 5.1.6 for the
// codes. err is a p11.Error, or nil for none.
func failure(call string, err error) error {
	var code p11.Error
	if err == nil || !errors.As(err, &code) {
		return err
	}
	remedy, mend := advice(code)
	err = &callError{call: call, code: code, mend: mend}
	switch remedy {
	case signer.Reopen:
		return signer.Stale(err)
	case signer.Retry:
		return signer.Transient(err, 0)
	default:
		return err
	}
}

// callError is a return value other than CKR_OK.
type callError struct {
	call string
	code p11.Error
	mend string
}

func (e *callError) Error() string {
	return fmt.Sprintf("%s answered %s: %s", e.call, codeName(e.code), e.mend)
}

func (e *callError) Unwrap() error { return e.code }

// remedy returns what may help after err; zero for nothing.
func remedy(err error) signer.Remedy {
	var f *signer.Failure
	if errors.As(err, &f) {
		return f.Remedy
	}
	return 0
}

// codeName returns the code's name in the specification.
func codeName(code p11.Error) string {
	if _, name, found := strings.Cut(code.Error(), ": CKR_"); found {
		return "CKR_" + name
	}
	return fmt.Sprintf("0x%X (a code that the standard does not have)", uint(code))
}

// is reports whether err has one of codes.
func is(err error, codes ...p11.Error) bool {
	var code p11.Error
	if !errors.As(err, &code) {
		return false
	}
	for _, c := range codes {
		if c == code {
			return true
		}
	}
	return false
}

// advice returns what may help after a code, zero for nothing, and the fix for the operator.
func advice(code p11.Error) (signer.Remedy, string) {
	switch code {
	case p11.CKR_SESSION_HANDLE_INVALID, p11.CKR_SESSION_CLOSED, p11.CKR_KEY_HANDLE_INVALID, p11.CKR_OBJECT_HANDLE_INVALID:
		return signer.Reopen, "the session or the key's handle was lost; the key is opened again. If it recurs, look whether the key (pkcs11.label) is still in the token"
	case p11.CKR_USER_NOT_LOGGED_IN:
		return signer.Reopen, "the login was lost; mayfly logs in again with the PIN in pkcs11.pin_file"
	case p11.CKR_CRYPTOKI_NOT_INITIALIZED:
		return signer.Reopen, "something in this process has finalized the module (pkcs11.module); it is initialized again"
	case p11.CKR_TOKEN_NOT_PRESENT, p11.CKR_TOKEN_NOT_RECOGNIZED, p11.CKR_DEVICE_REMOVED, p11.CKR_SLOT_ID_INVALID:
		return signer.Reopen, "the token (pkcs11.token) is not there; put it in, or look at the connection to it"
	case p11.CKR_DEVICE_ERROR, p11.CKR_GENERAL_ERROR:
		return signer.Reopen, "the device of the token (pkcs11.token) or its library (pkcs11.module) has a fault; look at the device and at the library's log"
	case p11.CKR_DEVICE_MEMORY, p11.CKR_HOST_MEMORY:
		return signer.Retry, "there is no memory left for it, in the device or in this process"
	case p11.CKR_SESSION_COUNT:
		return signer.Retry, fmt.Sprintf("the token has no session left; mayfly uses up to %d for each key: end other users of the token (pkcs11.token), or have it allow more", maxSessions+1)
	case p11.CKR_SESSION_READ_WRITE_SO_EXISTS:
		return signer.Retry, "the security officer is logged in to the token (pkcs11.token) from this process; it has to log out"
	case p11.CKR_FUNCTION_FAILED, p11.CKR_FUNCTION_CANCELED, p11.CKR_OPERATION_ACTIVE, p11.CKR_OPERATION_NOT_INITIALIZED:
		return signer.Retry, "the call failed and may succeed when it is tried again; if it does not, look at the device and at the log of its library (pkcs11.module)"
	case p11.CKR_MECHANISM_INVALID, p11.CKR_MECHANISM_PARAM_INVALID, p11.CKR_FUNCTION_NOT_SUPPORTED:
		return 0, "the token (pkcs11.token) cannot do this; run pkcs11-tool --list-mechanisms to see what it can: CKM_ECDSA or CKM_RSA_PKCS is needed for signing"
	case p11.CKR_KEY_FUNCTION_NOT_PERMITTED, p11.CKR_KEY_TYPE_INCONSISTENT, p11.CKR_KEY_SIZE_RANGE:
		return 0, "the token does not let this key (pkcs11.label) sign; make one that may, with CKA_SIGN"
	case p11.CKR_TOKEN_WRITE_PROTECTED, p11.CKR_SESSION_READ_ONLY:
		return 0, "the token (pkcs11.token) takes no new objects; remove its write protection"
	case p11.CKR_PIN_EXPIRED:
		return 0, "the user PIN has expired; set a new one with pkcs11-tool --login --change-pin, and put it into pkcs11.pin_file"
	case p11.CKR_PIN_LOCKED:
		return 0, "the user PIN is locked; the security officer has to set a new one: " + initPIN
	case p11.CKR_USER_PIN_NOT_INITIALIZED:
		return 0, "the token has no user PIN yet; the security officer has to set it: " + initPIN
	case p11.CKR_USER_ANOTHER_ALREADY_LOGGED_IN, p11.CKR_USER_TOO_MANY_TYPES:
		return signer.Retry, "another user, the security officer, is logged in to the token (pkcs11.token) from this process; it has to log out"
	default:
		return 0, "see the manual of the module (pkcs11.module) for what it means"
	}
}

// initPIN is the command with which a security officer sets the user PIN.
const initPIN = "pkcs11-tool --module MODULE --token-label TOKEN --login --login-type so --init-pin"

// list returns at most 8 of names, quoted.
func list(names []string) string {
	const most = 8
	var b strings.Builder
	for i, name := range names {
		if i == most {
			fmt.Fprintf(&b, " and %d more", len(names)-most)
			break
		}
		if i > 0 {
			b.WriteString(", ")
		}
		fmt.Fprintf(&b, "%q", name)
	}
	return b.String()
}
