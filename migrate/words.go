// SPDX-License-Identifier: Apache-2.0

package migrate

import (
	"errors"
	"fmt"
	"strings"
)

// words splits a command line as a POSIX shell does (POSIX.1-2024, Shell Command Language, section 2.2). It
// expands nothing: what a shell would expand or obey is an error unless it is quoted.
func words(line string) (all []string, err error) {
	var word strings.Builder
	inWord, quote := false, byte(0)
	for i := 0; i < len(line); i++ {
		next := "" // behind a backslash
		if line[i] == '\\' && i+1 < len(line) {
			next = line[i+1 : i+2]
		}
		switch c := line[i]; {
		case quote == 0 && strings.IndexByte(" \t\n", c) >= 0:
			if inWord {
				all = append(all, word.String())
			}
			word.Reset()
			inWord = false
			continue
		case next == "\n" && quote != '\'': // a continued line
			i++
			continue
		case c == quote:
			quote = 0
		case quote == '\'':
			word.WriteByte(c)
		case next != "" && (quote == 0 || strings.Contains("$`\"\\", next)):
			i++
			word.WriteString(next)
		case c == '\\' && quote == 0:
			return nil, errors.New("it ends in a backslash")
		case quote == 0 && (c == '\'' || c == '"'):
			quote = c
		case c == '$' || c == '`' || quote == 0 && strings.IndexByte("|&;<>()*?[#~", c) >= 0:
			return nil, fmt.Errorf("%q has a meaning in a shell: write the value itself, in single quotes", c)
		default:
			word.WriteByte(c)
		}
		inWord = true
	}
	if quote != 0 {
		return nil, fmt.Errorf("the quote %c is not closed", quote)
	}
	if inWord {
		all = append(all, word.String())
	}
	return all, nil
}
