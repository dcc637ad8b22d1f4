// SPDX-License-Identifier: Apache-2.0

package main

import (
	"cmp"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"golang.org/x/sys/unix"

	"github.com/mayfly-ca/mayfly/config"
	"github.com/mayfly-ca/mayfly/internal/files"
	"github.com/mayfly-ca/mayfly/internal/printable"
	"github.com/mayfly-ca/mayfly/internal/suggest"
)

// The flags, arguments, input and output that commands share: one name for one thing.

// addConfig adds --config, -c. Every command that reads a configuration file has it.
func addConfig(c *cobra.Command, file *string, usage string) {
	c.Flags().StringVarP(file, "config", "c", "", usage)
	_ = c.MarkFlagFilename("config", "yaml", "yml", "json") // it fails only without the flag
}

// completeFrom completes the value of a flag from the server's configuration, which --config names. It
// opens no key and uses no network.
func completeFrom(c *cobra.Command, flag string, values func(*config.Server) []string) {
	_ = c.RegisterFlagCompletionFunc(flag, func(c *cobra.Command, _ []string, _ string) (found []cobra.Completion, _ cobra.ShellCompDirective) {
		if cfg, _, err := config.LoadServer(c.Flag("config").Value.String(), os.Environ()); err == nil {
			found = values(cfg)
		}
		return found, cobra.ShellCompDirectiveNoFileComp
	})
}

// tokenVariable is also where sigstore's clients look for an ID token.
const tokenVariable = "SIGSTORE_ID_TOKEN"

// tokenFlags are the flags that name an ID token.
type tokenFlags struct{ file, valueOrFile string }

func (t *tokenFlags) add(c *cobra.Command) {
	c.Flags().StringVar(&t.file, "token-file", "", "file with the ID token, - for standard input (default: the value of "+tokenVariable+")")
	c.Flags().StringVar(&t.valueOrFile, "identity-token", "", "as cosign has it: the file with the ID token, or the token itself, which other users then see in the list of processes")
	c.Flags().StringVar(&t.file, "token", "", "as --token-file")
	_ = c.Flags().MarkHidden("token")
}

// given reports whether a flag names a token.
func (t *tokenFlags) given() bool { return t.file+t.valueOrFile != "" }

// read returns the token that the flags name, or else that of the environment; "" for none.
func (t *tokenFlags) read(c *cobra.Command) (string, error) {
	name := t.file + t.valueOrFile
	switch {
	case t.file != "" && t.valueOrFile != "":
		return "", usageError{errors.New("--token-file and --identity-token exclude each other")}
	case name == "":
		return strings.TrimSpace(os.Getenv(tokenVariable)), nil
	case t.file == "" && isToken(name):
		return name, nil
	}
	data, err := readInput(c.InOrStdin(), name)
	if err != nil {
		return "", err
	}
	token := strings.TrimSpace(string(data))
	if token == "" {
		return "", fmt.Errorf("%s is empty; an ID token is expected", shown(name))
	}
	return token, nil
}

// isToken reports whether text is a JWT and not the name of a file: its header is a JSON object.
func isToken(text string) bool {
	return strings.HasPrefix(text, "eyJ") && strings.Count(text, ".") == 2
}

// checkArguments holds the arguments of a command against its Use, as in "add [ID]" or "inspect
// [FILE…]", and those of a command with others below it against their names.
func checkArguments(c *cobra.Command, args []string) error {
	words := strings.Fields(c.Use)[1:]
	least, most := 0, len(words)
	for _, word := range words {
		if !strings.HasPrefix(word, "[") {
			least++
		}
		if strings.Contains(word, "…") {
			most = math.MaxInt
		}
	}
	switch {
	case c.HasSubCommands() && len(args) > 0:
		var names []string
		for _, command := range c.Commands() {
			names = append(names, command.Name())
		}
		return usageError{fmt.Errorf("unknown command %q; see %s --help%s", args[0], c.CommandPath(), suggest.DidYouMean(args[0], names))}
	case len(args) < least || len(args) > most:
		found := cmp.Or(strings.Trim(fmt.Sprintf("%q", args), "[]"), "nothing")
		return usageError{fmt.Errorf("%s takes %s, found %s; see %[1]s --help", c.CommandPath(), cmp.Or(strings.Join(words, " "), "no argument"), found)}
	}
	return nil
}

// unknownFlag adds the flag or the value that was probably meant, and where help is. Where a command below c was
// misspelt, its flags are unknown too, and the name is the mistake.
func unknownFlag(c *cobra.Command, err error) error {
	if c.HasSubCommands() && c.Flags().NArg() > 0 {
		return checkArguments(c, c.Flags().Args())
	}
	invalid, number := new(pflag.InvalidValueError), new(strconv.NumError)
	if errors.As(err, &invalid) && errors.As(err, &number) {
		expected := cmp.Or(map[string]string{"ParseBool": "true or false"}[number.Func], "a whole number")
		err = fmt.Errorf("--%s: found %q, expected %s", invalid.GetFlag().Name, invalid.GetValue(), expected)
	}
	hint := ""
	if unknown := new(pflag.NotExistError); errors.As(err, &unknown) {
		var known []string
		c.Flags().VisitAll(func(f *pflag.Flag) {
			known = append(known, "--"+f.Name)
		})
		hint = suggest.DidYouMean("--"+unknown.GetSpecifiedName(), known)
	}
	return usageError{fmt.Errorf("%w; see %s --help%s", err, c.CommandPath(), hint)}
}

// addSerial adds --serial, the serial number of a certificate.
func addSerial(c *cobra.Command, serial *[]byte) {
	c.Flags().Func("serial", "the serial `number` in hexadecimal", func(text string) (err error) {
		if *serial, err = hex.DecodeString(strings.ReplaceAll(text, ":", "")); err != nil || len(*serial) == 0 && text != "" {
			err = errors.New("it is no hexadecimal number")
		}
		return err
	})
}

// maxInput bounds how much a command reads from a file or standard input.
const maxInput = 1 << 20

// readInput reads the file name, or standard input for "-", up to maxInput bytes, without a byte
// order mark.
func readInput(stdin io.Reader, name string) ([]byte, error) { return readUpTo(maxInput, stdin, name) }

func readUpTo(limit int64, stdin io.Reader, name string) (data []byte, err error) {
	if name == "-" {
		data, err = files.ReadAll(stdin, limit)
	} else {
		data, err = files.Read(name, limit)
	}
	if err == nil {
		data, err = files.Text(data)
	}
	if err != nil {
		return nil, coded{fmt.Errorf("reading %s: %w", shown(name), err), 3}
	}
	return data, nil
}

// shown returns the name of an input in a message.
func shown(name string) string {
	if name == "-" {
		return "standard input"
	}
	return name
}

// output is the form in which a command prints its result, and the value of --output.
type output struct {
	form  string
	forms []string // that the command has
}

func (o *output) json() bool     { return o.form == "json" }
func (o *output) Type() string   { return "form" }
func (o *output) String() string { return o.form }

func (o *output) Set(text string) error {
	if !slices.Contains(o.forms, text) {
		return errors.New("it should be " + strings.Join(o.forms, " or ") + suggest.DidYouMean(text, o.forms))
	}
	o.form = text
	return nil
}

// addOutput adds --output, -o: text, json, and more. --json is what -o json was called.
func addOutput(c *cobra.Command, o *output, more ...string) {
	o.form, o.forms = "text", append([]string{"text", "json"}, more...)
	c.Flags().VarP(o, "output", "o", "the form of what is printed: "+strings.Join(o.forms, ", "))
	c.Flags().BoolFunc("json", "as -o json", func(text string) error {
		asJSON, err := strconv.ParseBool(text)
		if asJSON {
			o.form = "json"
		}
		return err
	})
	_ = c.Flags().MarkHidden("json")
	_ = c.RegisterFlagCompletionFunc("output", cobra.FixedCompletions(o.forms, cobra.ShellCompDirectiveNoFileComp))
}

// printJSON writes one value for a program, in a form that a person can read too.
func printJSON(out io.Writer, value any) error {
	encoder := json.NewEncoder(out)
	encoder.SetEscapeHTML(false)
	encoder.SetIndent("", "  ")
	return encoder.Encode(value)
}

// print prints a result: value for a program, or text for a person.
func (o *output) print(c *cobra.Command, value any, text string) error {
	if o.json() {
		return printJSON(c.OutOrStdout(), value)
	}
	_, err := io.WriteString(c.OutOrStdout(), text)
	return err
}

// errorText is the text of err for a program; "" for nil.
func errorText(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}

// table prints rows for a person, with aligned columns.
type table struct{ *tabwriter.Writer }

func newTable(out io.Writer) table { return table{tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)} }

// row adds a row. Text of others is escaped.
func (t table) row(cells ...any) {
	printable.Fprintf(t, strings.Repeat("%v\t", len(cells)-1)+"%v\n", cells...)
}

// given adds a row, unless its text is empty.
func (t table) given(label, text string) {
	if text != "" {
		t.row(label, text)
	}
}

// terminal returns the file to which w escapes text, if that is a terminal which obeys control
// sequences; otherwise nil. Text of others must never be written to it.
func terminal(w io.Writer) io.Writer {
	if escaping, ok := w.(*printable.Writer); ok && os.Getenv("TERM") != "dumb" {
		if f, ok := escaping.To().(*os.File); ok {
			if _, err := unix.IoctlGetWinsize(int(f.Fd()), unix.TIOCGWINSZ); err == nil { // only terminals have it
				return f
			}
		}
	}
	return nil
}

// The colours of paint, as parameters of the control sequence SGR.
const (
	red    = "31"
	green  = "32"
	yellow = "33"
)

// colour is a pattern with two groups: text that remains as it is, and the words to paint.
type colour struct{ pattern, sgr string }

// paint writes text to out: on a terminal in colours, once it has been escaped.
func paint(out io.Writer, text string, colours ...colour) error {
	if to := terminal(out); to != nil && os.Getenv("NO_COLOR") == "" {
		var escaped strings.Builder
		if _, err := io.WriteString(printable.NewWriter(&escaped), text); err != nil {
			return err
		}
		text, out = escaped.String(), to
		for _, c := range colours {
			text = regexp.MustCompile("(?m)"+c.pattern).ReplaceAllString(text, "${1}\x1b["+c.sgr+"m${2}\x1b[0m")
		}
	}
	_, err := io.WriteString(out, text)
	return err
}

// progress shows how far long work is, on standard error if that is a terminal: not in the first
// second, and four times a second at most.
type progress struct {
	to          io.Writer // nil for none
	what        string
	now         func() time.Time
	began, next time.Time
}

func newProgress(c *cobra.Command, what string) *progress {
	now := time.Now()
	return &progress{to: terminal(c.ErrOrStderr()), what: what, now: time.Now, began: now, next: now.Add(time.Second)}
}

// report shows that done of total units are done.
func (p *progress) report(done, total uint64) {
	now := p.now()
	if p.to == nil || done == 0 || now.Before(p.next) {
		return
	}
	p.next = now.Add(time.Second / 4)
	rate := float64(done) / now.Sub(p.began).Seconds()
	left := time.Duration(float64(total-done) / rate * float64(time.Second))
	fmt.Fprintf(p.to, "\r%s: %d of %d (%d %%), %.0f/s, %s left\x1b[K", p.what, done, total, 100*done/total, rate, printable.Span(left))
}

// clear removes what report has shown, before a result is printed.
func (p *progress) clear() {
	if p.to != nil && p.next.Sub(p.began) > time.Second {
		fmt.Fprint(p.to, "\r\x1b[K")
	}
}
