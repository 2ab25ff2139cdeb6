package docs_test

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// TestFiguresOfTheReadme compares the figures of the README's table with those
// of the benchmarks' page.
func TestFiguresOfTheReadme(t *testing.T) {
	systems := []string{"warlock", "redsync", "redislock, 100 ms", "rueidislock"}
	readme, bench := cells(t, "../README.md"), cells(t, "../bench/README.md")
	for _, fact := range []struct {
		row, of     string // names of the README's row, and of the case
		measured    string
		valueColumn int
	}{
		{"Free lock, pairs/s", "uncontended", "acquisitions/s", 2},
		{"Hand-off, median ms", "hand-off", "p50 ms", 6},
	} {
		want := []string{fact.row}
		for _, system := range systems {
			for _, row := range bench {
				if row[0] == fact.of && row[1] == system {
					want = append(want, row[fact.valueColumn])
				}
			}
		}
		want = append(want, "not measured")
		if !slices.ContainsFunc(bench, func(row []string) bool {
			return len(row) > fact.valueColumn && row[0] == "case" && row[fact.valueColumn] == fact.measured
		}) {
			t.Errorf("bench/README.md has no column %d named %q", fact.valueColumn, fact.measured)
		}
		if !slices.ContainsFunc(readme, func(row []string) bool { return slices.Equal(row, want) }) {
			t.Errorf("the README has no row | %s |", strings.Join(want, " | "))
		}
	}
}

// cells returns the rows of all tables on a page, without links.
func cells(t *testing.T, page string) (rows [][]string) {
	t.Helper()
	text, err := os.ReadFile(page)
	if err != nil {
		t.Fatal(err)
	}
	link := regexp.MustCompile(`\[([^]]*)\](\[[^]]*\]|\([^)]*\))`)
	for _, line := range strings.Split(string(text), "\n") {
		if !strings.HasPrefix(line, "| ") {
			continue
		}
		row := strings.Split(strings.Trim(link.ReplaceAllString(line, "$1"), "|"), "|")
		for i := range row {
			row[i] = strings.TrimSpace(row[i])
		}
		rows = append(rows, row)
	}
	return rows
}

// peers are the modules whose code the README points to.
var peers = map[string]string{ // by the start of the link
	"https://github.com/go-redsync/redsync/blob/": "github.com/go-redsync/redsync/v4",
	"https://github.com/bsm/redislock/blob/":      "github.com/bsm/redislock",
	"https://github.com/redis/rueidis/blob/":      "github.com/redis/rueidis",
}

// TestSourcesOfTheTable looks up the lines of the peers' code that the README's
// table points to.
func TestSourcesOfTheTable(t *testing.T) {
	says := map[string]string{ // what stands in those lines, by the link's name
		"rs-wait":    "tries:  32",
		"rs-extend":  "func (m *Mutex) Extend()",
		"rs-until":   "func (m *Mutex) Until()",
		"rs-quorum":  "quorum:        len(r.pools)/2 + 1",
		"rl-wait":    "return NoRetry()",
		"rl-refresh": "func (l *Lock) Refresh(",
		"rl-ttl":     "func (l *Lock) TTL(",
		"ru-wait":    "case <-g.ch:",
		"ru-renew":   "m.script(ctx, extend, key, val, deadline)",
		"ru-lost":    "cancel()",
		"ru-quorum":  "KeyMajority int32",
	}
	readme, err := os.ReadFile("../README.md")
	if err != nil {
		t.Fatal(err)
	}
	links := regexp.MustCompile(`(?m)^\[(r[slu]-\w+)\]: ` +
		`(https://github\.com/\S+/blob/)([^/\s]+)/(\S+)#L(\d+)(?:-L(\d+))?$`)
	for _, m := range links.FindAllStringSubmatch(string(readme), -1) {
		name, start, version, file := m[1], m[2], m[3], m[4]
		lines := linesOf(t, peers[start], version, file)
		first, _ := strconv.Atoi(m[5])
		last := first
		if m[6] != "" {
			last, _ = strconv.Atoi(m[6])
		}
		text := strings.Join(lines[first-1:last], "\n")
		if want := says[name]; want == "" || !strings.Contains(text, want) {
			t.Errorf("[%s] points to\n%s\nwhich does not say %q", name, text, want)
		}
		delete(says, name)
	}
	if len(says) > 0 {
		t.Errorf("the README has no links %v", says)
	}
}

// linesOf returns the lines of a file of a module, which go.mod has in that version.
func linesOf(t *testing.T, module, version, file string) []string {
	t.Helper()
	found := strings.Fields(run(t, "go", "list", "-m", "-f", "{{.Version}} {{.Dir}}", module))
	if len(found) < 2 || found[0] != version {
		t.Fatalf("the README points to %s %s, and go.mod has %v", module, version, found)
	}
	text, err := os.ReadFile(filepath.Join(found[1], file))
	if err != nil {
		t.Fatal(err)
	}
	return strings.Split(string(text), "\n")
}
