package main

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"slices"
	"strings"
	"text/tabwriter"
	"time"
)

// A report has the results of a run, and says which goals they meet.
type report struct {
	Date     string            `json:"date"`
	CPUs     int               `json:"cpus"`
	Go       string            `json:"go"`
	Redis    string            `json:"redis"`
	Versions map[string]string `json:"versions"`
	TTL      string            `json:"ttl"`
	Window   string            `json:"window"`
	Rounds   int               `json:"rounds"`
	Results  []*result         `json:"results"`
	Goals    []goal            `json:"goals"`
}

// A result has the measurements of one system in one case.
type result struct {
	Case   string        `json:"case"`
	System string        `json:"system"`
	Date   string        `json:"date,omitempty"` // if it is not that of the report
	Rounds []measurement `json:"rounds"`
	Median measurement   `json:"median"` // each figure's own median
}

// compared are the modules whose versions the report names.
var compared = []string{
	"github.com/redis/go-redis/v9",
	"github.com/go-redsync/redsync/v4",
	"github.com/bsm/redislock",
	"github.com/redis/rueidis",
}

func newReport(b *bench) *report {
	r := &report{
		Date: time.Now().UTC().Format(time.DateOnly), CPUs: runtime.NumCPU(),
		Go: strings.TrimPrefix(runtime.Version(), "go"), Redis: b.server.version,
		Versions: make(map[string]string),
		TTL:      b.ttl.String(), Window: b.window.String(), Rounds: b.rounds,
	}
	if info, ok := debug.ReadBuildInfo(); ok {
		for _, dep := range info.Deps {
			if slices.Contains(compared, dep.Path) {
				r.Versions[dep.Path] = dep.Version
			}
		}
	}
	return r
}

func (r *report) find(name, system string) *result {
	for _, res := range r.Results {
		if res.Case == name && res.System == system {
			return res
		}
	}
	return nil
}

func (r *report) add(name, system string, m measurement) {
	res := r.find(name, system)
	if res == nil {
		res = &result{Case: name, System: system}
		r.Results = append(r.Results, res)
	}
	res.Rounds = append(res.Rounds, m)
	res.takeMedian()
	r.judge()
}

// takeMedian works out the median of each figure over the rounds. Counts are
// sums over the rounds.
func (r *result) takeMedian() {
	of := func(figure func(measurement) float64) float64 {
		var xs []float64
		for _, m := range r.Rounds {
			xs = append(xs, figure(m))
		}
		return median(xs)
	}
	r.Median = measurement{
		Rate: of(rate), Commands: of(commands), PerS: of(commandsPerSecond), Jain: of(jainIndex),
		P50: of(p50), P99: of(p99), Max: of(func(m measurement) float64 { return m.Max }),
		Bytes: of(bytesEach), Goroutines: of(goroutinesEach),
		Grown: of(func(m measurement) float64 { return m.Grown }),
	}
	for _, m := range r.Rounds {
		r.Median.Lost += m.Lost
		r.Median.Samples += m.Samples
		r.Median.Broken += m.Broken
	}
}

// broken returns how often exclusion failed in all cases together.
func (r *report) broken() (n int64) {
	for _, res := range r.Results {
		n += res.Median.Broken
	}
	return n
}

// A column is a figure of the table of results. Its cell is empty if a case
// does not have the figure.
type column struct {
	title string
	cell  func(name string, m measurement) string
}

var columns = []column{
	{"acquisitions/s", func(_ string, m measurement) string { return number(m.Rate) }},
	{"commands each", func(_ string, m measurement) string { return number(m.Commands) }},
	{"commands/s", func(name string, m measurement) string {
		if name != park && name != manyHeld {
			return ""
		}
		return fmt.Sprintf("%.1f", m.PerS)
	}},
	{"Jain", func(_ string, m measurement) string {
		if m.Jain == 0 {
			return ""
		}
		return fmt.Sprintf("%.4f", m.Jain)
	}},
	{"p50 ms", func(_ string, m measurement) string { return number(m.P50) }},
	{"p99 ms", func(_ string, m measurement) string { return number(m.P99) }},
	{"bytes each", func(_ string, m measurement) string { return number(m.Bytes) }},
	{"samples", func(_ string, m measurement) string { return fmt.Sprint(m.Samples) }},
	{"overlaps", func(_ string, m measurement) string { return fmt.Sprint(m.Broken) }},
}

func number(x float64) string {
	switch {
	case x == 0:
		return ""
	case x < 0.01:
		return fmt.Sprintf("%.5f", x)
	case x >= 100:
		return fmt.Sprintf("%.0f", x)
	case x >= 10:
		return fmt.Sprintf("%.1f", x)
	default:
		return fmt.Sprintf("%.3f", x)
	}
}

// rows returns the table of results, head first.
func (r *report) rows() [][]string {
	head := []string{"case", "system"}
	for _, c := range columns {
		head = append(head, c.title)
	}
	rows := [][]string{head}
	for _, res := range r.Results {
		row := []string{res.Case, res.System}
		for _, c := range columns {
			row = append(row, c.cell(res.Case, res.Median))
		}
		rows = append(rows, row)
	}
	return rows
}

// goals returns the table of goals, head first.
func (r *report) goals() [][]string {
	rows := [][]string{{"case", "figure", "measured", "goal", "met"}}
	for _, g := range r.Goals {
		met := "yes"
		if !g.Met {
			met = "no"
		}
		value, bound := cmp.Or(number(g.Value), "0"), cmp.Or(number(g.Bound), "0")
		rows = append(rows, []string{g.Case, g.What, value, bound, met})
	}
	return rows
}

func (r *report) print(w io.Writer) {
	for _, rows := range [][][]string{r.rows(), r.goals()} {
		table := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
		for _, row := range rows {
			fmt.Fprintln(table, strings.Join(row, "\t"))
		}
		_ = table.Flush() // fails only if w does
		fmt.Fprintln(w)
	}
	fmt.Fprintln(w, r.made())
}

// made names the day, the machine and the versions of the run.
func (r *report) made() string {
	made := fmt.Sprintf("Made on %s with %d CPUs, Go %s, Redis %s", r.Date, r.CPUs, r.Go, r.Redis)
	parts := []string{made}
	for _, path := range compared {
		parts = append(parts, path+" "+cmp.Or(r.Versions[path], "(unknown)"))
	}
	made = strings.Join(parts, ", ") +
		fmt.Sprintf("; ttl %s, %d rounds of %s.", r.TTL, r.Rounds, r.Window)
	var later []string
	for _, res := range r.Results {
		text := fmt.Sprintf("%s: %s.", res.Case, res.Date)
		if res.Date != "" && !slices.Contains(later, text) {
			later = append(later, text)
		}
	}
	return strings.Join(append([]string{made}, later...), "\n")
}

// keep takes over, from the results in dir, those of the cases that r has not measured. order
// has the names of all cases. It errs if the results were made by other means.
func (r *report) keep(dir string, order []string) error {
	old, err := read(dir)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	} else if err != nil {
		return err
	}
	if r.means() != old.means() {
		return fmt.Errorf("the results in %s were made with %s, these with %s: measure all cases",
			dir, old.means(), r.means())
	}
	measured := make(map[string]bool)
	for _, res := range r.Results {
		measured[res.Case] = true
		if r.Date != old.Date {
			res.Date = r.Date
		}
	}
	for _, res := range old.Results {
		if !measured[res.Case] {
			r.Results = append(r.Results, res)
		}
	}
	slices.SortStableFunc(r.Results, func(a, b *result) int {
		return cmp.Compare(slices.Index(order, a.Case), slices.Index(order, b.Case))
	})
	r.Date = old.Date
	r.judge()
	return nil
}

// means says how results were made: what they must have in common to stand side by side.
func (r *report) means() string {
	return fmt.Sprintf("%d CPUs, Go %s, Redis %s, %v, ttl %s, %d rounds of %s",
		r.CPUs, r.Go, r.Redis, r.Versions, r.TTL, r.Rounds, r.Window)
}

func markdown(rows [][]string) string {
	var b strings.Builder
	for i, row := range rows {
		fmt.Fprintf(&b, "| %s |\n", strings.Join(row, " | "))
		if i == 0 {
			b.WriteString(strings.Repeat("| --- ", len(row)) + "|\n")
		}
	}
	return b.String()
}

// write writes the results into folder dir. It also writes the tables into the
// README beside dir, between the markers. It fails if that README has no
// markers.
func (r *report) write(dir string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	text, err := json.MarshalIndent(r, "", "\t")
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(dir, "results.json"), append(text, '\n'), 0o644); err != nil {
		return err
	}
	if err := r.plot(dir); err != nil {
		return err
	}
	readme := filepath.Join(filepath.Dir(filepath.Clean(dir)), "README.md")
	old, err := os.ReadFile(readme)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	} else if err != nil {
		return err
	}
	updated, err := between(old, r.made()+"\n\n"+markdown(r.goals())+"\n"+markdown(r.rows()))
	if err != nil {
		return fmt.Errorf("%s: %w", readme, err)
	}
	return os.WriteFile(readme, updated, 0o644)
}

// drawAnew draws the plots of the results in dir.
func drawAnew(dir string) error {
	r, err := read(dir)
	if err != nil {
		return err
	}
	return r.plot(dir)
}

// read reads the results in dir.
func read(dir string) (*report, error) {
	text, err := os.ReadFile(filepath.Join(dir, "results.json"))
	if err != nil {
		return nil, err
	}
	r := new(report)
	return r, json.Unmarshal(text, r)
}

const (
	begin = "<!-- results -->"
	end   = "<!-- /results -->"
)

// between replaces the text between the markers by results.
func between(text []byte, results string) ([]byte, error) {
	head, rest, ok1 := bytes.Cut(text, []byte(begin))
	_, tail, ok2 := bytes.Cut(rest, []byte(end))
	if !ok1 || !ok2 {
		return nil, fmt.Errorf("the markers %s and %s are missing", begin, end)
	}
	return fmt.Appendf(nil, "%s%s\n%s\n%s%s", head, begin, strings.TrimSpace(results), end, tail), nil
}
