// SPDX-License-Identifier: Apache-2.0

// Package policy decides which callers may have a certificate, by rules that the operator writes in
// CEL (the Common Expression Language) beside an issuer. A rule allows callers. Without rules,
// every caller with a token of the issuer is allowed; otherwise only callers that a rule allows.
//
// Only package identity and app may import it.
package policy

import (
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strconv"
	"strings"

	"cel.dev/cel-go/cel"
	"cel.dev/cel-go/common/types"
	"cel.dev/cel-go/common/types/ref"

	"github.com/mayfly-ca/mayfly/internal/keypath"
	"github.com/mayfly-ca/mayfly/internal/refusal"
	"github.com/mayfly-ca/mayfly/oidc"
)

// Rule is a rule that allows callers a certificate.
type Rule struct {
	// Name is `name`, the rule's name in refusals and records. It must differ from those of the
	// other rules of the list.
	Name string `key:"name"`
	// When is `when`: an expression in CEL over claims, san and issuer that is true or false, as in claims.repository_owner == "example".
	When string `key:"when"`
}

// Config is the policy of one issuer entry, or of one of its profiles.
type Config struct {
	// Allow is `allow` (ours): rules, one of which must allow the caller. Without rules,
	// every caller with a token of the issuer is allowed.
	Allow []Rule `key:"allow" nonempty:"would allow every caller"`
	// Mode is `mode` (ours): enforce, which is the default, or audit, in which denials by allow are
	// counted and recorded, but no caller is refused.
	Mode string `key:"mode"`
}

// The modes.
const (
	ModeEnforce = "enforce"
	ModeAudit   = "audit"
)

// Limits of one rule. Tokens have 16 KiB, so that a reasonable rule costs at most some thousands.
const (
	maxRules      = 100
	maxExpression = 64 << 10 // characters: 200 names of repositories are some 10 KiB
	costLimit     = 100_000  // CEL's units, about as many nanoseconds
	maxRegex      = 1 << 12  // instructions of a compiled regular expression
)

// Policy is a compiled Config. It is immutable and safe for concurrent use. The nil Policy has no
// rules and allows every caller.
type Policy struct {
	audit bool
	rules []compiled
	names []string // of rules
}

type compiled struct {
	name, when string
	first      equality
	program    cel.Program
}

// Compiler compiles the policies of an issuer file. Its zero value is ready to use.
type Compiler struct{ env *cel.Env } // nil before the first policy

// New compiles a policy; nil for a Config without rules. It reports every mistake at once. Its
// joined errors are keypath errors, as in ["allow", "0", "when"].
func (c *Compiler) New(config Config) (*Policy, error) {
	var errs []error
	if !slices.Contains([]string{"", ModeEnforce, ModeAudit}, config.Mode) {
		errs = append(errs, keypath.Errorf([]string{"mode"}, "there is no mode %.100q; it is enforce, or audit to try the rules without a refusal", config.Mode))
	}
	if len(config.Allow) == 0 {
		if config.Mode != "" {
			errs = append(errs, keypath.Errorf([]string{"mode"}, "a mode without rules has no effect; write rules under allow"))
		}
		return nil, errors.Join(errs...)
	}
	if len(config.Allow) > maxRules {
		errs = append(errs, keypath.Errorf([]string{"allow"}, "there are %d rules; %d are the most that one policy can have: join some with ||, or test membership with `in`", len(config.Allow), maxRules))
	}
	if c.env == nil {
		var err error
		if c.env, err = newEnv(); err != nil {
			return nil, fmt.Errorf("setting up CEL: %w", err)
		}
	}
	p := &Policy{audit: config.Mode == ModeAudit}
	seen := make(map[string]bool)
	for i, rule := range config.Allow {
		path := []string{"allow", strconv.Itoa(i)}
		switch {
		case rule.Name == "", len(rule.Name) > 100:
			errs = append(errs, keypath.Errorf(append(path, "name"), "the rule's name has %d bytes; a refusal quotes it, and it must have from 1 to 100", len(rule.Name)))
		case seen[rule.Name]:
			errs = append(errs, keypath.Errorf(append(path, "name"), "another rule has the name %q already", rule.Name))
		}
		seen[rule.Name] = true
		expression, program, err := compile(c.env, rule.When, cel.OptOptimize) // constants are folded
		r := compiled{name: rule.Name, when: rule.When, program: program}
		if err != nil {
			errs = append(errs, keypath.Prefix(err, append(path, "when")...))
		} else {
			r.first = leading(expression.NativeRep().Expr())
		}
		p.rules = append(p.rules, r)
		p.names = append(p.names, rule.Name)
	}
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	return p, nil
}

// newEnv returns the variables and limits of every rule.
func newEnv(more ...cel.EnvOption) (*cel.Env, error) {
	return cel.NewEnv(append(more,
		cel.CustomTypeAdapter(adapter{}),
		cel.Variable("claims", cel.MapType(cel.StringType, cel.DynType)),
		cel.Variable("san", cel.StringType),
		cel.Variable("issuer", cel.StringType),
		cel.ParserExpressionSizeLimit(maxExpression),
		cel.RegexProgramSizeLimit(maxRegex),
	)...)
}

// compile checks an expression's types, and plans its evaluation.
func compile(env *cel.Env, when string, options ...cel.EvalOption) (*cel.Ast, cel.Program, error) {
	if strings.TrimSpace(when) == "" {
		return nil, nil, errors.New(`the rule has no expression; write one, such as claims.repository_owner == "example"`)
	}
	ast, issues := env.Compile(when)
	if issues.Err() != nil {
		var errs []error
		for _, issue := range issues.Errors() {
			err := fmt.Errorf("the expression is wrong at line %d, character %d: %s", issue.Location.Line(), issue.Location.Column()+1, oneLine(issue.Message))
			if strings.HasPrefix(issue.Message, "Syntax error") { // the rest is most likely a consequence
				errs = append(errs, fmt.Errorf("%w; in CEL, equal is ==, and is &&, or is ||, not is !, and each parenthesis, bracket and quote is closed", err))
				break
			}
			errs = append(errs, err)
		}
		return nil, nil, errors.Join(errs...)
	}
	if !ast.OutputType().IsExactType(cel.BoolType) {
		return nil, nil, fmt.Errorf("the expression's value is of type %s (dyn: any, as a claim); compare it with what it must be, as in claims.email_verified == true", ast.OutputType())
	}
	program, err := env.Program(ast, cel.EvalOptions(options...), cel.CostLimit(costLimit))
	if err != nil {
		return nil, nil, fmt.Errorf("the expression cannot be planned: %s", oneLine(err.Error()))
	}
	return ast, program, nil
}

func oneLine(s string) string { return strings.Join(strings.Fields(s), " ") }

// Input holds the values that the rules read.
type Input struct {
	// Claims are the token's, as oidc.ParseClaims returns them.
	Claims map[string]any
	// SAN is the certificate's name, and Issuer the issuer that it names.
	SAN, Issuer string
}

// variables returns the input as the rules read it.
func (in Input) variables() map[string]any {
	return map[string]any{
		"claims": types.NewStringInterfaceMap(adapter{}, in.Claims),
		"san":    in.SAN,
		"issuer": in.Issuer,
	}
}

// Decision is the answer of a policy. The zero value is the answer without a policy: allowed.
type Decision struct {
	// Rules are the names of all rules, in their order; none if there is no policy. They are not changed.
	Rules []string
	// Denied states that no rule allowed the caller.
	Denied bool
	// Rule is the rule that allowed the caller.
	Rule string
	// Audit states that a denial is only recorded.
	Audit bool
	// Err joins the errors that prevented the evaluation of rules; such a rule does not allow. It
	// may quote claims and is only for the operator.
	Err error
}

// Decide evaluates the rules in their order until one allows.
func (p *Policy) Decide(in Input) Decision {
	if p == nil {
		return Decision{}
	}
	d := Decision{Audit: p.audit, Denied: true, Rules: p.names}
	variables := in.variables()
	for _, rule := range p.rules {
		if rule.first.isFalse(in.Claims) {
			continue
		}
		value, _, err := rule.program.Eval(variables)
		if err == nil && value == types.True {
			d.Denied, d.Rule = false, rule.name
			return d
		}
		if err == nil && value != types.False {
			err = errors.New("the value is neither true nor false")
		}
		if err != nil {
			d.Err = errors.Join(d.Err, fmt.Errorf("rule %q: %w", rule.name, err))
		}
	}
	return d
}

// maxNamed is the number of rules that a refusal and a record name.
const maxNamed = 10

// Refusal returns the *refusal.Error of an enforced denial, and nil for other decisions.
func (d Decision) Refusal() error {
	if !d.Denied || d.Audit {
		return nil
	}
	rules := fmt.Sprintf("%q", d.Rules[:min(len(d.Rules), maxNamed)])
	if more := len(d.Rules) - maxNamed; more > 0 {
		rules += fmt.Sprintf(" and %d more", more)
	}
	return refusal.New(refusal.PolicyDenied,
		"the token's issuer is trusted for some callers only, and no rule of this CA (%s) allows this one; ask its platform team for a rule", rules).Because(d.Err)
}

// LogValue implements slog.LogValuer: the decision, and what led to it.
func (d Decision) LogValue() slog.Value {
	attrs := []slog.Attr{slog.String("result", d.Result())}
	if d.Rule != "" {
		attrs = append(attrs, slog.String("rule", d.Rule))
	}
	if d.Audit {
		attrs = append(attrs, slog.String("mode", ModeAudit))
	}
	if d.Denied {
		attrs = append(attrs, slog.Any("rules", d.Rules[:min(len(d.Rules), maxNamed)]))
	}
	if d.Err != nil {
		attrs = append(attrs, slog.String("error", d.Err.Error()))
	}
	return slog.GroupValue(attrs...)
}

// Result returns the decision in one word: none, allowed, denied, or error for a denial in which a
// rule could not be evaluated.
func (d Decision) Result() string {
	switch {
	case len(d.Rules) == 0:
		return "none"
	case !d.Denied:
		return "allowed"
	case d.Err != nil:
		return "error"
	default:
		return "denied"
	}
}

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
