// SPDX-License-Identifier: Apache-2.0

package config

import (
	"bytes"
	"fmt"
	"path/filepath"
	"reflect"
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
	g, a := indexOf(root, "generation"), indexOf(root, "authorities")
	if g < 0 || a < 0 || root.Content[a].Kind != yaml.SequenceNode {
		return nil, fmt.Errorf("%s is written with aliases or merge keys, which cannot be edited by a command; edit it by hand, and count the generation up", s.Name())
	}
	spellNulls(root)
	generation, authorities := root.Content[g], root.Content[a]
	generation.SetString(strconv.FormatUint(s.Generation+1, 10))
	generation.Tag = tagInt
	if edit.Add != nil {
		authorities.Content = append(authorities.Content, yamlOf(reflect.ValueOf(*edit.Add), filepath.Dir(s.Name()), 0))
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

// indexOf returns the index of the value of a key that the mapping itself has; or -1.
func indexOf(mapping *yaml.Node, key string) int {
	for i := 0; i+1 < len(mapping.Content); i += 2 {
		if mapping.Content[i].Value == key {
			return i + 1
		}
	}
	return -1
}

// setTime sets, adds or removes a time of an authority.
func setTime(authority *yaml.Node, key string, to *time.Time) {
	if to == nil {
		return
	}
	switch i := indexOf(authority, key); {
	case to.IsZero() && i >= 0:
		authority.Content = append(authority.Content[:i-1], authority.Content[i+1:]...)
	case to.IsZero():
	case i >= 0:
		old, written := authority.Content[i], timeNode(*to)
		written.HeadComment, written.LineComment, written.FootComment = old.HeadComment, old.LineComment, old.FootComment
		authority.Content[i] = written
	default:
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

// yamlOf returns the keys of a struct that are set, with its paths as written in a file of the folder
// dir. Structs in it are in flow style.
func yamlOf(v reflect.Value, dir string, style yaml.Style) *yaml.Node {
	n := &yaml.Node{Kind: yaml.MappingNode, Tag: "!!map", Style: style}
	for _, f := range fields(v.Type()) {
		value := v.FieldByIndex(f.index)
		if value.IsZero() {
			continue
		}
		var written *yaml.Node
		switch of := reflect.Indirect(value).Interface().(type) {
		case time.Time:
			written = timeNode(of)
		case uint64:
			written = &yaml.Node{Kind: yaml.ScalarNode, Tag: tagInt, Value: strconv.FormatUint(of, 10)}
		case string:
			if f.tag.Get("kind") == "path" {
				of = relativeTo(dir, of)
			}
			written = textNode(of)
		default:
			written = yamlOf(reflect.Indirect(value), dir, yaml.FlowStyle)
		}
		n.Content = append(n.Content, textNode(f.yaml), written)
	}
	return n
}

// relativeTo returns path as written in a file of the folder dir. It is relative below dir and
// absolute elsewhere, so that its meaning does not depend on the working directory.
func relativeTo(dir, path string) string {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return path
	}
	absolute, err := filepath.Abs(path)
	if err != nil {
		return path
	}
	if rel, err := filepath.Rel(dir, absolute); err == nil && filepath.IsLocal(rel) {
		return rel
	}
	return absolute
}
