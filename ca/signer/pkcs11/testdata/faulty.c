// SPDX-License-Identifier: Apache-2.0

// faulty.c is a PKCS#11 module that hands every call on to the module in $FAULTY_MODULE, but
// for what the file $FAULTY_CONTROL asks for. It reads the file at each of the calls below.
// One line of it is one of:
//
//	fail FUNCTION CODE   FUNCTION answers CODE, hexadecimal
//	flags VALUE          C_GetTokenInfo adds these flags, hexadecimal
//	refuse CODE          C_Login answers CODE, and then the next wrong PIN locks the token
//	absent               no token is there, and sessions end
//	lose                 C_SignInit finds that all sessions have ended
//	hang FUNCTION        FUNCTION hangs until the line and all "hung" are gone
//	hung                 calls that hang go on doing so, and others do not
//	flip                 C_Sign changes a bit of the signature
//
// Each C_Login is a line of $FAULTY_LOG: its answer, hexadecimal; and so is each call that
// hangs: "hangs".

#include <dlfcn.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "pkcs11go.h"

static CK_FUNCTION_LIST faulty;
static CK_FUNCTION_LIST_PTR real;
static volatile int refused; // while there is "refuse"

// asked tells whether the control file has a line that begins with what, and gives the number
// at the line's end.
static int asked(const char *what, CK_ULONG *value)
{
	FILE *f = fopen(getenv("FAULTY_CONTROL"), "r");
	if (f == NULL)
		return 0;
	char line[256];
	int found = 0;
	while (!found && fgets(line, sizeof(line), f) != NULL) {
		size_t n = strlen(what);
		if (strncmp(line, what, n) == 0 && (line[n] == ' ' || line[n] == '\n')) {
			found = 1;
			if (value != NULL)
				*value = strtoul(line + n, NULL, 16);
		}
	}
	fclose(f);
	return found;
}

static void note(const char *format, CK_ULONG value)
{
	char line[32];
	int n = snprintf(line, sizeof(line), format, value);
	int f = open(getenv("FAULTY_LOG"), O_WRONLY | O_APPEND);
	if (f >= 0 && write(f, line, n) == n) // at once, as threads may do so at a time
		close(f);
}

static void hang(const char *line)
{
	if (!asked(line, NULL))
		return;
	note("hangs\n", 0);
	while (asked(line, NULL) || asked("hung", NULL))
		usleep(2000);
}

#define HANG(name) hang("hang " name)
#define FAIL(name) do { CK_ULONG rv; if (asked("fail " name, &rv)) return rv; HANG(name); } while (0)

static void end_sessions(void)
{
	CK_SLOT_ID slots[4096];
	CK_ULONG n = 4096;
	if (real->C_GetSlotList(CK_TRUE, slots, &n) == CKR_OK)
		for (CK_ULONG i = 0; i < n; i++)
			real->C_CloseAllSessions(slots[i]);
}

static int absent(void)
{
	if (!asked("absent", NULL))
		return 0;
	end_sessions();
	return 1;
}

static CK_RV get_slot_list(CK_BBOOL present, CK_SLOT_ID_PTR slots, CK_ULONG_PTR n)
{
	FAIL("C_GetSlotList");
	if (asked("absent", NULL)) {
		*n = 0;
		return CKR_OK;
	}
	return real->C_GetSlotList(present, slots, n);
}

static CK_RV get_token_info(CK_SLOT_ID slot, CK_TOKEN_INFO_PTR info)
{
	CK_ULONG flags;
	FAIL("C_GetTokenInfo");
	if (absent())
		return CKR_TOKEN_NOT_PRESENT;
	CK_RV rv = real->C_GetTokenInfo(slot, info);
	if (rv == CKR_OK && asked("flags", &flags))
		info->flags |= flags;
	if (rv == CKR_OK && refused && asked("refuse", NULL))
		info->flags |= CKF_USER_PIN_FINAL_TRY;
	return rv;
}

static CK_RV open_session(CK_SLOT_ID slot, CK_FLAGS flags, CK_VOID_PTR application, CK_NOTIFY notify, CK_SESSION_HANDLE_PTR session)
{
	FAIL("C_OpenSession");
	if (absent())
		return CKR_TOKEN_NOT_PRESENT;
	return real->C_OpenSession(slot, flags, application, notify, session);
}

static CK_RV login(CK_SESSION_HANDLE session, CK_USER_TYPE user, CK_UTF8CHAR_PTR pin, CK_ULONG n)
{
	CK_RV rv;
	HANG("C_Login");
	refused = asked("refuse", &rv);
	if (!refused && !asked("fail C_Login", &rv))
		rv = real->C_Login(session, user, pin, n);
	note("%lx\n", rv);
	return rv;
}

static CK_RV logout(CK_SESSION_HANDLE session)
{
	FAIL("C_Logout");
	return real->C_Logout(session);
}

static CK_RV get_attribute_value(CK_SESSION_HANDLE session, CK_OBJECT_HANDLE object, CK_ATTRIBUTE_PTR template, CK_ULONG n)
{
	FAIL("C_GetAttributeValue");
	return real->C_GetAttributeValue(session, object, template, n);
}

static CK_RV sign_init(CK_SESSION_HANDLE session, CK_MECHANISM_PTR mechanism, CK_OBJECT_HANDLE key)
{
	FAIL("C_SignInit");
	if (absent())
		return CKR_DEVICE_REMOVED;
	if (asked("lose", NULL))
		end_sessions(); // and the module itself says so
	return real->C_SignInit(session, mechanism, key);
}

static CK_RV sign(CK_SESSION_HANDLE session, CK_BYTE_PTR data, CK_ULONG size, CK_BYTE_PTR signature, CK_ULONG_PTR n)
{
	FAIL("C_Sign");
	if (absent())
		return CKR_DEVICE_REMOVED;
	CK_RV rv = real->C_Sign(session, data, size, signature, n);
	if (rv == CKR_OK && signature != NULL && asked("flip", NULL))
		signature[*n - 1] ^= 1;
	return rv;
}

CK_RV C_GetFunctionList(CK_FUNCTION_LIST_PTR_PTR list)
{
	void *module = dlopen(getenv("FAULTY_MODULE"), RTLD_NOW);
	if (module == NULL)
		return CKR_GENERAL_ERROR;
	CK_C_GetFunctionList get = (CK_C_GetFunctionList) dlsym(module, "C_GetFunctionList");
	if (get == NULL || get(&real) != CKR_OK)
		return CKR_GENERAL_ERROR;
	faulty = *real;
	faulty.C_GetSlotList = get_slot_list;
	faulty.C_GetTokenInfo = get_token_info;
	faulty.C_OpenSession = open_session;
	faulty.C_Login = login;
	faulty.C_Logout = logout;
	faulty.C_GetAttributeValue = get_attribute_value;
	faulty.C_SignInit = sign_init;
	faulty.C_Sign = sign;
	*list = &faulty;
	return CKR_OK;
}
