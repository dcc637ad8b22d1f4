// SPDX-License-Identifier: Apache-2.0

package identity

import (
	"fmt"
	"strconv"
	"strings"
)

// maxPrintf is an approximate limit on the result of one printf in a template: enough for any
// result that could enter a certificate.
const maxPrintf = 16 * maxText

// printf is the template built-in of that name with a limit. The built-in formats in memory before
// any check of the size. A width of a million, in an operator's template or in a claim used as its
// format, would then cost a megabyte.
func printf(format string, args ...any) (string, error) {
	if printfBound(format, args) > maxPrintf {
		return "", errTooLong
	}
	return fmt.Sprintf(format, args...), nil
}

// printfBound estimates the number of bytes that fmt.Sprintf would return: the format, its widths
// and precisions, those that * takes from args, and the longest text once for every verb.
func printfBound(format string, args []any) int {
	longest, widest := 0, 0
	for _, arg := range args {
		switch arg := arg.(type) {
		case string:
			longest = max(longest, len(arg))
		case int:
			widest = max(widest, arg, -arg)
		}
	}
	total := len(format)
	for total <= maxPrintf {
		_, after, ok := strings.Cut(format, "%")
		if !ok {
			break
		}
		format = strings.TrimLeft(after, "+-# 0123456789.*[]")
		flags := after[:len(after)-len(format)]
		for number := range strings.FieldsFuncSeq(flags, func(r rune) bool { return r < '0' || r > '9' }) {
			n, err := strconv.ParseUint(number, 10, 24)
			if err != nil {
				return maxPrintf + 1
			}
			total += int(n)
		}
		total += longest + min(widest, maxPrintf)*strings.Count(flags, "*")
		format = strings.TrimPrefix(format, "%")
	}
	return total
}
