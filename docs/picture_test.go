package docs_test

import (
	"flag"
	"fmt"
	"html"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

var update = flag.Bool("update", false, "draw counter.svg anew, from a run of examples/counter")

const (
	picture  = "counter.svg"
	lineTall = 20 // pixels
)

var (
	textOfSVG = regexp.MustCompile(`<text[^>]*>(.*)</text>`)
	value     = regexp.MustCompile(` {2,}\S+$`) // behind the name of a row
)

// TestPictureOfTheCounter compares the picture of examples/counter with what the
// example prints. Rows and their order are compared, and the values that are the
// same in each run.
func TestPictureOfTheCounter(t *testing.T) {
	printed := counterLines(t)
	if *update {
		if err := os.WriteFile(picture, []byte(draw(printed)), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	svg, err := os.ReadFile(picture)
	if err != nil {
		t.Fatal(err)
	}
	var shown []string
	for _, text := range textOfSVG.FindAllSubmatch(svg, -1) {
		shown = append(shown, html.UnescapeString(string(text[1])))
	}
	if got, want := rows(shown), rows(printed); !slices.Equal(got, want) {
		t.Errorf("%s shows\n%s\nand the example prints\n%s\n(go test -run Picture -update draws it anew)",
			picture, strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

// counterLines returns the commands and what they print, line by line.
func counterLines(t *testing.T) []string {
	t.Helper()
	binary := filepath.Join(t.TempDir(), "counter.exe")
	run(t, "go", "build", "-o", binary, "github.com/warlock-go/warlock/examples/counter")
	lines := []string{"$ go run ./examples/counter"}
	lines = append(lines, strings.Split(strings.TrimSpace(run(t, binary)), "\n")...)
	lines = append(lines, "", "$ go run ./examples/counter -unlocked")
	out, err := exec.CommandContext(t.Context(), binary, "-unlocked").Output()
	if err == nil {
		t.Errorf("the counter lost no update without the lock:\n%s", out)
	}
	return append(lines, strings.Split(strings.TrimSpace(string(out)), "\n")...)
}

// rows returns lines without the values that differ from run to run. Lines
// before the first empty line are those of the run under the lock.
func rows(lines []string) []string {
	var all []string
	locked := true
	for _, line := range lines {
		name := value.ReplaceAllString(line, "")
		locked = locked && line != ""
		exact := name == "expected" || locked && (name == "counted" || name == "lost updates")
		if exact {
			name = strings.Join(strings.Fields(line), " ")
		}
		all = append(all, name)
	}
	return all
}

// draw returns lines as the picture of a terminal.
func draw(lines []string) string {
	const wide, margin = 520, 20
	tall := len(lines)*lineTall + 2*margin
	var b strings.Builder
	fmt.Fprintf(&b, `<svg xmlns="http://www.w3.org/2000/svg"
 width="%d" height="%d" viewBox="0 0 %[1]d %[2]d">
<rect width="100%%" height="100%%" rx="8" fill="#1b1f24"/>
<g font-family="ui-monospace, Menlo, Consolas, monospace" font-size="14" fill="#d0d7de">
`, wide, tall)
	for i, line := range lines {
		color := ""
		if strings.HasPrefix(line, "$") {
			color = ` fill="#7ee787"`
		}
		fmt.Fprintf(&b, "<text x=\"%d\" y=\"%d\"%s xml:space=\"preserve\">%s</text>\n",
			margin, margin+15+i*lineTall, color, html.EscapeString(line))
	}
	b.WriteString("</g>\n</svg>\n")
	return b.String()
}
