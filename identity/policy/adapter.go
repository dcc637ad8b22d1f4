// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"strconv"
	"strings"

	"cel.dev/cel-go/common/types"
	"cel.dev/cel-go/common/types/ref"

	"github.com/mayfly-ca/mayfly/oidc"
)

// adapter converts claims to CEL values when a rule reads them: text to a string, a whole number to
// an int, any other number to a double. Objects and lists stay objects and lists.
type adapter struct{}

// NativeToValue implements types.Adapter.
func (a adapter) NativeToValue(value any) ref.Val {
	switch v := value.(type) {
	case oidc.Number:
		return number(string(v))
	case map[string]any:
		return types.NewStringInterfaceMap(a, v)
	case []any:
		return types.NewDynamicList(a, v)
	default:
		return types.DefaultTypeAdapter.NativeToValue(v)
	}
}

// number reads the text of a JSON number. A whole number that fits no int is an error, and thus
// denies: after rounding, two of them would be equal.
func number(text string) ref.Val {
	if strings.ContainsAny(text, ".eE") {
		f, err := strconv.ParseFloat(text, 64)
		if err != nil {
			return types.NewErr("the number %s is too large", text)
		}
		return types.Double(f)
	}
	i, err := strconv.ParseInt(text, 10, 64)
	if err != nil {
		return types.NewErr("the number %s has more than 64 bits", text)
	}
	return types.Int(i)
}
