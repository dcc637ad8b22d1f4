// SPDX-License-Identifier: Apache-2.0

package archtest

import (
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

var (
	namedTests = regexp.MustCompile("((?:`(?:Test|Fuzz)\\w+`,? )+)\\(([\\w/]+)\\)") // `TestA`, `TestB` (folder)
	testName   = regexp.MustCompile("`((?:Test|Fuzz)\\w+)`")
	link       = regexp.MustCompile(`\]\(([^)\s]+)\)`)
	notAnchor  = regexp.MustCompile(`[^\p{L}\p{N} _-]`)
)

// documents returns the documents by their paths, from the root.
func documents(t *testing.T) map[string]string {
	t.Helper()
	all := map[string]string{}
	for _, pattern := range []string{"*.md", "docs/*.md", "docs/issuers/*.md"} {
		files, err := filepath.Glob("../../" + pattern)
		if err != nil {
			t.Fatal(err)
		}
		for _, file := range files {
			content, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			all[strings.TrimPrefix(filepath.ToSlash(file), "../../")] = string(content)
		}
	}
	if len(all) < 30 {
		t.Fatalf("found %d documents", len(all))
	}
	return all
}

// TestDocumentsNameTests checks that the tests exist that the documents name, and that each row of a
// table with a column for tests names one.
func TestDocumentsNameTests(t *testing.T) {
	t.Parallel()
	for file, document := range documents(t) {
		columns, rows := 0, 0 // of the table, if its last column is for tests
		for line := range strings.Lines(document) {
			cells := strings.Split(strings.Trim(strings.TrimSpace(line), "|"), "|")
			last := strings.TrimSpace(cells[len(cells)-1])
			switch {
			case last == "test" || last == "proven by":
				columns = len(cells)
			case len(cells) != columns || strings.HasPrefix(last, "---"):
			case !namedTests.MatchString(last) && last != "–":
				t.Errorf("%s: no test shows %q", file, cells[0])
			default:
				rows++
			}
			checkNamedTests(t, file, line)
		}
		if file == "docs/limits.md" && rows < 50 || file == "docs/architecture.md" && rows < 20 || file == "README.md" && rows < 8 {
			t.Errorf("%s: found %d rows with tests", file, rows)
		}
	}
}

func checkNamedTests(t *testing.T, file, line string) {
	t.Helper()
	named := 0
	for _, g := range namedTests.FindAllStringSubmatch(line, -1) {
		var source strings.Builder
		files, _ := filepath.Glob("../../" + g[2] + "/*_test.go")
		for _, f := range files {
			content, err := os.ReadFile(f)
			if err != nil {
				t.Fatal(err)
			}
			source.Write(content)
		}
		for _, match := range testName.FindAllStringSubmatch(g[1], -1) {
			named++
			if !strings.Contains(source.String(), "\nfunc "+match[1]+"(") {
				t.Errorf("%s: %s has no %s", file, g[2], match[1])
			}
		}
	}
	if all := testName.FindAllString(line, -1); strings.HasPrefix(line, "|") && len(all) != named {
		t.Errorf("%s: a row names %d tests, and a folder for %d: %s", file, len(all), named, line)
	}
}

// TestDocumentsLink checks that the files and sections exist to which the documents link.
func TestDocumentsLink(t *testing.T) {
	t.Parallel()
	all := documents(t)
	for file, document := range all {
		for _, match := range link.FindAllStringSubmatch(document, -1) {
			if strings.Contains(match[1], "://") {
				continue
			}
			path, section, _ := strings.Cut(match[1], "#")
			target := file
			if path != "" {
				target = filepath.ToSlash(filepath.Join(filepath.Dir(file), path))
			}
			if _, err := os.Stat("../../" + target); err != nil {
				t.Errorf("%s links to %s, which does not exist", file, match[1])
			} else if section != "" && !hasSection(all[target], section) {
				t.Errorf("%s links to %s: there is no such section", file, match[1])
			}
		}
	}
}

// hasSection reports whether document has a heading with the anchor.
func hasSection(document, anchor string) bool {
	for line := range strings.Lines(document) {
		if heading, ok := strings.CutPrefix(strings.TrimLeft(line, "#"), " "); ok && strings.HasPrefix(line, "#") &&
			strings.ReplaceAll(notAnchor.ReplaceAllString(strings.ToLower(strings.TrimSpace(heading)), ""), " ", "-") == anchor {
			return true
		}
	}
	return false
}

// TestCodeLinks checks that the sections exist to which messages, the page, alerts and scripts lead.
func TestCodeLinks(t *testing.T) {
	t.Parallel()
	all, found := documents(t), 0
	section := regexp.MustCompile(`\b(docs/[a-z-]+\.md)#([a-z0-9-]+)`)
	if err := filepath.WalkDir("../..", func(path string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir() && len(d.Name()) > 2 && strings.HasPrefix(d.Name(), "."):
			return fs.SkipDir
		case d.IsDir() || !slices.Contains([]string{".go", ".html", ".sh", ".yaml", ".yml", ".service", ".txt"}, filepath.Ext(path)):
			return nil
		}
		content, err := os.ReadFile(path)
		for _, match := range section.FindAllStringSubmatch(string(content), -1) {
			if found++; !hasSection(all[match[1]], match[2]) {
				t.Errorf("%s leads to %s, which does not exist", path, match[0])
			}
		}
		return err
	}); err != nil {
		t.Fatal(err)
	}
	if found < 100 {
		t.Errorf("found %d sections only: the test looks at the wrong files", found)
	}
}
