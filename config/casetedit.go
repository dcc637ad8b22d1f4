// SPDX-License-Identifier: Apache-2.0

package config

import (
	"bytes"
	"fmt"
	"path/filepath"
	"strconv"
	"time"

	"go.yaml.in/yaml/v3"
)

// CASetEdit is one edit of a CA set.
type CASetEdit struct {
	// Add, if it is not nil, is appended. Its paths are as Go opens them, and are written relative
	// to the file if they are below it.
	Add *CASetAuthority
	// ID is that of the authority with the new times below; "" for none.
	ID string
	// ActivateAt, RetireAt and CompromisedAt are the new times: nil leaves the old one, a zero time
	// removes it.
	ActivateAt, RetireAt, CompromisedAt *time.Time
}

// Edit returns the content of the file after an edit, under the next generation. Comments, order
// and style of unchanged parts stay. Edit checks only the form: the caller loads the result before
// writing it.
func (s *CASet) Edit(edit CASetEdit) ([]byte, error) {
	var document yaml.Node
	if err := yaml.Unmarshal(s.content, &document); err != nil {
		return nil, fmt.Errorf("%s: %w", s.Name(), err)
	}
	root := document.Content[0]
	generation, authorities := valueOf(root, "generation"), valueOf(root, "authorities")
	if generation == nil || authorities == nil || authorities.Kind != yaml.SequenceNode {
		return nil, fmt.Errorf("%s is written with aliases or merge keys, which cannot be edited by a command; edit it by hand, and count the generation up", s.Name())
	}
	spellNulls(root)
	generation.SetString(strconv.FormatUint(s.Generation+1, 10))
	generation.Tag = tagInt
	if edit.Add != nil {
		authorities.Content = append(authorities.Content, s.authorityNode(edit.Add))
	}
	if edit.ID != "" {
		i := s.Index(edit.ID)
		if i < 0 || i >= len(authorities.Content) || authorities.Content[i].Kind != yaml.MappingNode {
			return nil, fmt.Errorf("%s has no authority %q that a command can edit", s.Name(), edit.ID)
		}
		setTime(authorities.Content[i], "activate_at", edit.ActivateAt)
		setTime(authorities.Content[i], "retire_at", edit.RetireAt)
		setTime(authorities.Content[i], "compromised_at", edit.CompromisedAt)
	}
	var out bytes.Buffer
	encoder := yaml.NewEncoder(&out)
	encoder.SetIndent(2)
	if err := encoder.Encode(&document); err != nil {
		return nil, fmt.Errorf("writing %s: %w", s.Name(), err)
	}
	return out.Bytes(), nil
}

// spellNulls writes missing values in braces out, which the YAML package would write as empty text.
func spellNulls(n *yaml.Node) {
	for _, child := range n.Content {
		if n.Style&yaml.FlowStyle != 0 && child.Tag == tagNull && child.Value == "" {
			child.Value = "null"
		}
		spellNulls(child)
	}
}

// valueOf returns the value of a key that the mapping itself has.
func valueOf(mapping *yaml.Node, key string) *yaml.Node {
	for i := 0; i+1 < len(mapping.Content); i += 2 {
		if mapping.Content[i].Value == key {
			return mapping.Content[i+1]
		}
	}
	return nil
}

// setTime sets, adds or removes a time of an authority.
func setTime(authority *yaml.Node, key string, to *time.Time) {
	if to == nil {
		return
	}
	for i := 0; i+1 < len(authority.Content); i += 2 {
		if authority.Content[i].Value != key {
			continue
		}
		if to.IsZero() {
			authority.Content = append(authority.Content[:i], authority.Content[i+2:]...)
			return
		}
		old, written := authority.Content[i+1], timeNode(*to)
		written.HeadComment, written.LineComment, written.FootComment = old.HeadComment, old.LineComment, old.FootComment
		authority.Content[i+1] = written
		return
	}
	if !to.IsZero() {
		authority.Content = append(authority.Content, textNode(key), timeNode(*to))
	}
}

func textNode(text string) *yaml.Node {
	n := &yaml.Node{}
	n.SetString(text)
	return n
}

func timeNode(t time.Time) *yaml.Node {
	return &yaml.Node{Kind: yaml.ScalarNode, Tag: tagTimestamp, Value: t.UTC().Format(time.RFC3339)}
}

func (s *CASet) authorityNode(a *CASetAuthority) *yaml.Node {
	n := &yaml.Node{Kind: yaml.MappingNode, Tag: "!!map"}
	put := func(to *yaml.Node, key string, value *yaml.Node) {
		to.Content = append(to.Content, textNode(key), value)
	}
	put(n, "id", textNode(a.ID))
	put(n, "chain", textNode(s.relative(a.Chain)))
	if !a.Signer.IsZero() {
		put(n, "signer", a.Signer.node(s.relative))
	}
	put(n, "publish_at", timeNode(a.PublishAt))
	if !a.ActivateAt.IsZero() {
		put(n, "activate_at", timeNode(a.ActivateAt))
	}
	if !a.RetireAt.IsZero() {
		put(n, "retire_at", timeNode(a.RetireAt))
	}
	return n
}

// relative returns path as it is written in the file.
func (s *CASet) relative(path string) string { return relativeTo(filepath.Dir(s.Name()), path) }
