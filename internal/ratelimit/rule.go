// SPDX-License-Identifier: Apache-2.0

// Package ratelimit limits requests by rules that an operator names: by client address, issuer,
// identity, or the value of a claim.
//
// Every package may import it.
package ratelimit

import (
	"errors"
	"fmt"
	"strconv"
	"strings"

	"golang.org/x/time/rate"

	"github.com/mayfly-ca/mayfly/internal/keypath"
)

// The values of Rule.By.
const (
	byAddress  = "address"
	byIssuer   = "issuer"
	byIdentity = "identity"
	byClaim    = "claim"
)

// Rule is an entry of `rate_limits`: a limit on requests for a certificate. Rules apply in the order
// of the list, those by address first. A request that one of them refuses counts for none of them.
type Rule struct {
	// Name names the rule in metrics, in the log and in the answer to the client.
	Name string `key:"name" required:"metrics, the log and answers name the rule by it"`
	// By is what has a budget of its own. With address, each client address (IPv4, or IPv6 /64): the rule
	// applies before the request is read. The others apply to a caller with a verified token: each
	// issuer URL; each name that a certificate can have; or each value of claim. Names and
	// values of different issuer URLs never share a budget.
	By string `key:"by" oneof:"address issuer identity claim" required:"it is what has a budget of its own: address, issuer, identity or claim"`
	// Claim is the claim whose value has the budget. It is for by: claim, which requires it. The rule does not apply to a
	// token without the claim, or with one that is a list or an object.
	Claim string `key:"claim"`
	// Rate is the number of requests in a second (10/s), a minute (600/m) or an hour (1000/h).
	Rate string `key:"rate" required:"it is a number of requests and a time, such as 10/s, 600/m or 1000/h"`
	// Burst is the number of requests that may come at once after a pause.
	Burst int `key:"burst" min:"1" required:"it is the number of requests that may come at once"`
	// Shadow makes the rule count what it would refuse, and refuse nothing.
	Shadow bool `key:"shadow"`
}

// maxRules bounds the memory of all tables, and the work for a request.
const maxRules = 16

// check returns the rate, and the mistakes of a rule by their keys.
func (r Rule) check() (perSecond rate.Limit, err error) {
	perSecond, err = parseRate(r.Rate)
	errs := []error{keypath.Prefix(err, "rate")}
	if r.By == byClaim && r.Claim == "" {
		errs = append(errs, keypath.Errorf([]string{"claim"}, "claim is missing: it names the claim whose values have a budget each"))
	} else if r.By != byClaim && r.Claim != "" {
		errs = append(errs, keypath.Errorf([]string{"claim"}, "claim is for by: claim, and this rule is by: %s", r.By))
	}
	return perSecond, errors.Join(errs...)
}

// Check returns the mistakes of a list, by their key paths.
func Check(rules []Rule) error {
	var errs []error
	first := make(map[string]int)
	if len(rules) > maxRules {
		errs = append(errs, keypath.Errorf(nil, "found %d rules, expected at most %d", len(rules), maxRules))
	}
	for i, r := range rules {
		at := strconv.Itoa(i)
		_, err := r.check()
		errs = append(errs, keypath.Prefix(err, at))
		if j, ok := first[r.Name]; ok {
			errs = append(errs, keypath.Errorf([]string{at, "name"}, "%q is also the name of rule %d in this list", r.Name, j+1))
		} else {
			first[r.Name] = i
		}
	}
	return errors.Join(errs...)
}

// parseRate reads a number of requests and a time, such as 10/s.
func parseRate(text string) (rate.Limit, error) {
	number, unit, _ := strings.Cut(text, "/")
	seconds := map[string]float64{"s": 1, "m": 60, "h": 3600}[unit]
	n, err := strconv.ParseUint(number, 10, 32)
	switch {
	case err != nil || seconds == 0:
		return 0, fmt.Errorf("found %.40q, expected a whole number and a time: 10/s, 600/m or 1000/h", text)
	case n == 0:
		return 0, fmt.Errorf("found %q, which permits no request; expected at least one", text)
	}
	return rate.Limit(float64(n) / seconds), nil
}
