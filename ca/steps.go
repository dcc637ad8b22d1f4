// SPDX-License-Identifier: Apache-2.0

package ca

import (
	"encoding/hex"
	"time"
)

// Step is a step of Issue.
type Step uint8

// The steps, in the order of Issue.
const (
	StepToken Step = iota
	StepIdentity
	StepAdmission
	StepProof
	StepDraft
	StepIntent
	StepPrecertificate
	StepLog
	StepCertificate
	StepOutcome
	NumSteps
)

// String returns the step's value of the label "step" in metrics, and the name of its span.
func (s Step) String() string {
	return [NumSteps]string{"token", "identity", "admission", "proof", "draft", "intent", "precertificate", "log", "certificate", "outcome"}[s]
}

// Steps are the times at which the steps of one request began. Issue notes them; a nil *Steps takes
// none. It is for one goroutine.
type Steps struct {
	begun [NumSteps + 1]time.Time // zero for a step that was skipped or not reached; the last one is the end
	draft *draft
}

func (s *Steps) begin(step Step) {
	if s != nil {
		s.begun[step] = time.Now()
	}
}

// End notes that Issue has returned.
func (s *Steps) End() { s.begin(NumSteps) }

// Each calls f for each step that has begun, the last one first. A step ends when the next one
// begins, and the last one at End, which precedes Each.
func (s *Steps) Each(f func(step Step, begin, end time.Time)) {
	end := s.begun[NumSteps]
	for step := NumSteps; step > 0; step-- {
		if begin := s.begun[step-1]; !begin.IsZero() {
			f(step-1, begin, end)
			end = begin
		}
	}
}

// Signed returns the ID of the selected authority, and the log ID of the SCT in hexadecimal digits; ""
// for what Issue did not reach.
func (s *Steps) Signed() (authority, logID string) {
	if s.draft == nil {
		return "", ""
	}
	if s.draft.sct.Timestamp != 0 {
		logID = hex.EncodeToString(s.draft.sct.LogID[:])
	}
	return s.draft.authority.id, logID
}
