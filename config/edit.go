// SPDX-License-Identifier: Apache-2.0

package config

import (
	"bytes"
	"encoding/hex"
	"fmt"
	"path/filepath"
	"reflect"
	"slices"
	"strconv"
	"time"

	"go.yaml.in/yaml/v3"
)

// Edit returns the content of the file with entry in place of the authority of its ID, or with entry
// as a new authority, under the next generation. Comments, order and style of unchanged parts stay.
// Paths in entry are as Go opens them, and are written relative to the file if they are below it.
// Edit checks only the form: the caller loads the result before writing it.
func (s *CASet) Edit(entry CASetAuthority) ([]byte, error) {
	var document yaml.Node
	if err := yaml.Unmarshal(s.content, &document); err != nil {
		return nil, fmt.Errorf("%s: %w", s.Name(), err)
	}
	root := document.Content[0]
	generation, authorities := indexOf(root, "generation"), indexOf(root, "authorities")
	if generation < 0 || authorities < 0 || root.Content[authorities].Kind != yaml.SequenceNode {
		return nil, fmt.Errorf("%s is written with aliases or merge keys, which cannot be edited by a command; edit it by hand, and count the generation up", s.Name())
	}
	spellNulls(root)
	root.Content[generation].SetString(strconv.FormatUint(s.Generation+1, 10))
	root.Content[generation].Tag = tagInt
	list, old := root.Content[authorities], CASetAuthority{}
	i := s.Index(entry.ID)
	if i < 0 {
		i = len(list.Content)
		list.Content = append(list.Content, &yaml.Node{Kind: yaml.MappingNode})
	} else {
		old = s.Authorities[i]
	}
	write(list.Content[i], reflect.ValueOf(old), reflect.ValueOf(entry), filepath.Dir(s.Name()))
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

// write writes the keys of a struct into mapping, where their values differ from those of old. Paths
// are written as in a file of the folder dir.
func write(mapping *yaml.Node, old, v reflect.Value, dir string) {
	for _, f := range fields(v.Type(), false) {
		value, i := v.FieldByIndex(f.index), indexOf(mapping, f.yaml)
		switch {
		case reflect.DeepEqual(old.FieldByIndex(f.index).Interface(), value.Interface()):
		case value.IsZero() && i >= 0:
			mapping.Content = slices.Delete(mapping.Content, i-1, i+1)
		case value.IsZero():
		case i >= 0:
			was, written := mapping.Content[i], yamlOf(value, f, dir)
			written.HeadComment, written.LineComment, written.FootComment = was.HeadComment, was.LineComment, was.FootComment
			mapping.Content[i] = written
		default:
			mapping.Content = append(mapping.Content, textNode(f.yaml), yamlOf(value, f, dir))
		}
	}
}

// yamlOf returns the value of a key. A struct is in flow style.
func yamlOf(value reflect.Value, f field, dir string) *yaml.Node {
	value = reflect.Indirect(value)
	switch of := value.Interface().(type) {
	case time.Time:
		return &yaml.Node{Kind: yaml.ScalarNode, Tag: tagTimestamp, Value: of.UTC().Format(time.RFC3339)}
	case uint64:
		return &yaml.Node{Kind: yaml.ScalarNode, Tag: tagInt, Value: strconv.FormatUint(of, 10)}
	case []byte:
		return textNode(hex.EncodeToString(of))
	case string:
		if f.tag.Get("kind") == "path" {
			of = relativeTo(dir, of)
		}
		return textNode(of)
	default:
		n := &yaml.Node{Kind: yaml.MappingNode, Style: yaml.FlowStyle}
		write(n, reflect.Zero(value.Type()), value, dir)
		return n
	}
}

func textNode(text string) *yaml.Node {
	n := &yaml.Node{}
	n.SetString(text)
	return n
}

// relativeTo returns path as written in a file of the folder dir. It is relative below dir and
// absolute elsewhere, so that its meaning does not depend on the working directory.
func relativeTo(dir, path string) string {
	dir, errDir := filepath.Abs(dir)
	absolute, errPath := filepath.Abs(path)
	if errDir != nil || errPath != nil {
		return path
	}
	if rel, err := filepath.Rel(dir, absolute); err == nil && filepath.IsLocal(rel) {
		return rel
	}
	return absolute
}
