// SPDX-License-Identifier: Apache-2.0

package load

import (
	"bytes"
	"cmp"
	"encoding/json"
	"flag"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"

	gocmp "github.com/google/go-cmp/cmp"
)

var update = flag.Bool("update", false, "record the measured curves, and write the pictures and the table of docs/performance.md")

// The data file, and the document with its table between two markers.
const (
	images     = "../../docs/img"
	document   = "../../docs/performance.md"
	tableBegin = "<!-- The table is written by make growth. -->\n"
	tableEnd   = "<!-- The end of the table. -->\n"
)

// growth is docs/img/growth.json: the figures of every curve, and the machine that they are from.
type growth struct {
	Machine string             `json:"machine"`
	Curves  map[string]figures `json:"curves"` // by the curve's name
}

// figures are the points of each panel of a curve, by the panel's name.
type figures map[string][]point

// point is what was measured at one size. The first is the median of all rounds, the lowest and the
// highest. Each other one is the median, the lowest and the highest ratio to the first in the same round,
// times the first's median: what slows the machine for a time then changes no point.
type point struct {
	Size   int     `json:"size"`
	Median float64 `json:"median"`
	Low    float64 `json:"low"`
	High   float64 `json:"high"`
}

// readGrowth reads the data file.
func readGrowth(t testing.TB) (g growth) {
	t.Helper()
	text := must(os.ReadFile(filepath.Join(images, "growth.json")))(t)
	if err := json.Unmarshal(text, &g); err != nil {
		t.Fatal(err)
	}
	return g
}

// record puts a curve into the data file, and writes the pictures and the table again.
func record(t testing.TB, name string, f figures) {
	t.Helper()
	g := readGrowth(t)
	g.Machine, g.Curves[name] = machine(), f
	file(t, filepath.Join(images, "growth.json"), string(must(json.MarshalIndent(g, "", " "))(t))+"\n", true)
	g.document(t, true)
}

// The pictures and the table show the figures of the data file.
func TestGrowthDocument(t *testing.T) {
	t.Parallel()
	readGrowth(t).document(t, *update)
}

func (g growth) document(t testing.TB, write bool) {
	t.Helper()
	for _, c := range curves() {
		picture := c.draw(g.Curves[c.name])
		if len(picture) > 12<<10 {
			t.Errorf("the picture of %s has %d bytes; 12 KiB are permitted", c.name, len(picture))
		}
		file(t, filepath.Join(images, "growth-"+c.name+".svg"), picture, write)
	}
	page := string(must(os.ReadFile(document))(t))
	before, rest, found := strings.Cut(page, tableBegin)
	_, after, ended := strings.Cut(rest, tableEnd)
	if !found || !ended {
		t.Fatalf("%s has no markers of the table", document)
	}
	file(t, document, before+tableBegin+g.table()+tableEnd+after, write)
}

// file writes a file, or compares it.
func file(t testing.TB, path, content string, write bool) {
	t.Helper()
	if write {
		if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	if diff := gocmp.Diff(content, string(must(os.ReadFile(path))(t))); diff != "" {
		t.Errorf("%s is not what `make generate` writes (-want +got):\n%s", path, diff)
	}
}

// table is the table of docs/performance.md: each panel in a line, with whether its bound holds.
func (g growth) table() string {
	var b strings.Builder
	fmt.Fprintf(&b, "\nMeasured on %s.\n\n", g.Machine)
	b.WriteString("| what grows | figure | smallest to largest | spread at the largest | bound | reached |\n|---|---|---|---|---|---|\n")
	for _, c := range curves() {
		for _, p := range c.panels {
			points := g.Curves[c.name][p.name]
			if len(points) == 0 {
				continue
			}
			first, last := points[0], points[len(points)-1]
			text, reached := "", ""
			if p.bound != nil {
				var ok bool
				_, text, ok = p.bound(points)
				reached = map[bool]string{true: "yes", false: "**no**"}[ok]
			}
			fmt.Fprintf(&b, "| %s, %s to %s | %s | %s to %s %s | %s to %s | %s | %s |\n", c.axis, thousands(first.Size), thousands(last.Size),
				p.title, number(first.Median), number(last.Median), p.unit, number(last.Low), number(last.High), text, reached)
		}
	}
	return b.String() + "\n"
}

// curve is one thing that grows, with the panels of its picture beside each other.
type curve struct {
	name, title, axis string
	panels            []panel
}

// panel is one figure over the size.
type panel struct {
	name, title, unit string
	bound             bound // nil for none
}

// bound returns a line of the highest (or lowest) permitted value at each size, its description, and
// whether the points stay within it.
type bound func(points []point) (line []float64, text string, ok bool)

// within permits a growth by a part of the value at the smallest size; a negative part permits a fall.
func within(part float64) bound {
	return func(points []point) (line []float64, text string, ok bool) {
		ok = true
		for _, p := range points {
			permitted := points[0].Median * (1 + part)
			line = append(line, permitted)
			ok = ok && (part > 0 && p.Median <= permitted || part < 0 && p.Median >= permitted)
		}
		return line, fmt.Sprintf("within %.0f %% of the smallest", math.Abs(part)*100), ok
	}
}

// atMost permits values up to a limit.
func atMost(limit float64) bound {
	return func(points []point) (line []float64, text string, ok bool) {
		ok = true
		for _, p := range points {
			line, ok = append(line, limit), ok && p.Median <= limit
		}
		return line, "at most " + number(limit), ok
	}
}

// linear permits values up to a tenth above a straight line between the smallest and the largest size.
func linear(points []point) (line []float64, text string, ok bool) {
	ok = true
	first, last := points[0], points[len(points)-1]
	for _, p := range points {
		slope := (last.Median - first.Median) / float64(max(last.Size-first.Size, 1))
		straight := first.Median + slope*float64(p.Size-first.Size)
		line, ok = append(line, straight), ok && p.Median <= straight*1.1
	}
	return line, "linear", ok
}

// The size of a picture in pixels: each panel has this width, and the plot these margins in it.
const (
	panelWidth, height          = 300, 260
	left, right, above, beneath = 56, 18, 62, 48
)

// draw returns the picture of a curve: sizes are on a logarithmic scale and values on a linear one from
// zero; a bar at each point is its spread, and the dashed line the bound.
func (c curve) draw(f figures) string {
	var b bytes.Buffer
	width := panelWidth * len(c.panels)
	fmt.Fprintf(&b, `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %d %d" role="img" aria-labelledby="t d" font-family="system-ui, sans-serif" font-size="11">`+"\n", width, height)
	fmt.Fprintf(&b, "<title id=\"t\">%s</title>\n<desc id=\"d\">%s</desc>\n", c.title, c.describe(f))
	fmt.Fprintf(&b, `<rect width="%d" height="%d" rx="10" fill="#ffffff"/>`+"\n", width, height)
	for i, p := range c.panels {
		if points := f[p.name]; len(points) > 0 {
			fmt.Fprintf(&b, "<g transform=\"translate(%d 0)\">\n", i*panelWidth)
			p.draw(&b, c.axis, points)
			b.WriteString("</g>\n")
		}
	}
	b.WriteString("</svg>\n")
	return b.String()
}

// describe is the picture in words, for readers that do not see it.
func (c curve) describe(f figures) string {
	var all []string
	for _, p := range c.panels {
		for i, at := range f[p.name] {
			text := fmt.Sprintf("%s %s at %s", number(at.Median), p.unit, thousands(at.Size))
			if i == 0 {
				text = p.title + ": " + text
			}
			all = append(all, text)
		}
	}
	return strings.Join(all, ", ")
}

func (p panel) draw(b *bytes.Buffer, axis string, points []point) {
	highest := 0.0
	for _, at := range points {
		highest = max(highest, at.High)
	}
	var line []float64
	var boundText string
	if p.bound != nil {
		line, boundText, _ = p.bound(points)
		for _, value := range line {
			highest = max(highest, value)
		}
	}
	step := niceStep(highest)
	top := step * math.Ceil(highest*1.05/step)
	from, to := position(points[0].Size), position(points[len(points)-1].Size)
	x := func(size int) float64 {
		return left + (position(size)-from)/cmp.Or(to-from, 1)*(panelWidth-left-right)
	}
	y := func(value float64) float64 { return height - beneath - value/top*(height-above-beneath) }

	fmt.Fprintf(b, `<text x="14" y="24" font-size="13" font-weight="600" fill="#0f172a">%s</text>`+"\n", p.title)
	fmt.Fprintf(b, `<text x="14" y="42" fill="#475569">%s</text>`+"\n", p.unit)
	for value := 0.0; value <= top*1.001; value += step {
		fmt.Fprintf(b, `<path d="M%d %.1fH%d" stroke="#e2e8f0"/><text x="%d" y="%.1f" text-anchor="end" fill="#475569">%s</text>`+"\n",
			left, y(value), panelWidth-right, left-6, y(value)+4, number(value))
	}
	for i, at := range points {
		if i > 0 && x(at.Size)-x(points[i-1].Size) < 26 {
			continue // the labels would overlap
		}
		fmt.Fprintf(b, `<text x="%.1f" y="%d" text-anchor="middle" fill="#475569">%s</text>`+"\n", x(at.Size), height-beneath+17, label(at.Size))
	}
	fmt.Fprintf(b, `<text x="%d" y="%d" text-anchor="middle" fill="#475569">%s</text>`+"\n", (left+panelWidth-right)/2, height-12, axis)
	if line != nil {
		fmt.Fprintf(b, `<path d="%s" fill="none" stroke="#b45309" stroke-dasharray="5 4"/>`+"\n", path(points, line, x, y))
		fmt.Fprintf(b, `<text x="%d" y="42" text-anchor="end" fill="#b45309">- - %s</text>`+"\n", panelWidth-right, boundText)
	}
	medians := make([]float64, len(points))
	for i, at := range points {
		medians[i] = at.Median
	}
	fmt.Fprintf(b, `<path d="%s" fill="none" stroke="#059669" stroke-width="2"/>`+"\n", path(points, medians, x, y))
	for _, at := range points {
		fmt.Fprintf(b, `<path d="M%.1f %.1fV%.1f" stroke="#059669"/><circle cx="%.1f" cy="%.1f" r="3.5" fill="#059669"/>`+"\n",
			x(at.Size), y(at.Low), y(at.High), x(at.Size), y(at.Median))
	}
}

// path is a line through values at the sizes of points. A straight line bends on a logarithmic scale, so
// the bound has only its ends and the measured sizes in between.
func path(points []point, values []float64, x func(int) float64, y func(float64) float64) string {
	var b strings.Builder
	for i, at := range points {
		fmt.Fprintf(&b, "%c%.1f %.1f", "ML"[min(i, 1)], x(at.Size), y(values[i]))
	}
	return b.String()
}

// position is the place of a size on the logarithmic scale; an empty log is one entry.
func position(size int) float64 { return math.Log(float64(max(size, 1))) }

// niceStep is the distance between the lines of a scale up to highest: 1, 2 or 5 times a power of ten.
func niceStep(highest float64) float64 {
	power := math.Pow(10, math.Floor(math.Log10(max(highest, 1e-6)/4)))
	for _, factor := range []float64{1, 2, 5} {
		if highest/(factor*power) <= 6 {
			return factor * power
		}
	}
	return 10 * power
}

// number is a value with three digits.
func number(value float64) string {
	switch {
	case value >= 100:
		return thousands(int(math.Round(value)))
	case value >= 10:
		return strings.TrimSuffix(fmt.Sprintf("%.1f", value), ".0")
	default:
		return cmp.Or(strings.TrimRight(strings.TrimRight(fmt.Sprintf("%.2f", value), "0"), "."), "0")
	}
}

// thousands is a number with a comma before each three digits.
func thousands(n int) string {
	text := fmt.Sprint(n)
	for i := len(text) - 3; i > 0; i -= 3 {
		text = text[:i] + "," + text[i:]
	}
	return text
}

// label is a size for a scale: 10k, 1M, and 4 Ki for bytes.
func label(n int) string {
	switch {
	case n >= 1_000_000 && n%1_000_000 == 0:
		return fmt.Sprintf("%dM", n/1_000_000)
	case n >= 1024 && n%1024 == 0:
		return fmt.Sprintf("%d Ki", n/1024)
	case n >= 10_000 && n%1000 == 0:
		return fmt.Sprintf("%dk", n/1000)
	default:
		return fmt.Sprint(n)
	}
}
