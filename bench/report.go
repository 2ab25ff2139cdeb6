package main

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"slices"
	"strings"
	"text/tabwriter"
	"time"
)

// A report is what a run found.
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

// A result is what one system did in one case.
type result struct {
	Case   string        `json:"case"`
	System string        `json:"system"`
	Rounds []measurement `json:"rounds"`
	Median measurement   `json:"median"` // of each figure by itself
}

// A goal is a bound on a figure of warlock's.
type goal struct {
	Case  string  `json:"case"`
	What  string  `json:"what"`
	Value float64 `json:"value"`
	Bound float64 `json:"bound"`
	Met   bool    `json:"met"`
}

// compared are the modules whose versions matter.
var compared = []string{
	"github.com/redis/go-redis/v9", "github.com/go-redsync/redsync/v4", "github.com/bsm/redislock", "github.com/redis/rueidis",
}

func newReport(b *bench) *report {
	r := &report{
		Date: time.Now().UTC().Format(time.DateOnly), CPUs: runtime.NumCPU(), Go: strings.TrimPrefix(runtime.Version(), "go"),
		Redis: b.server.version, Versions: make(map[string]string),
		TTL: b.ttl.String(), Window: b.window.String(), Rounds: b.rounds,
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
	of := func(figure func(measurement) float64) float64 {
		var xs []float64
		for _, m := range res.Rounds {
			xs = append(xs, figure(m))
		}
		return median(xs)
	}
	res.Median = measurement{
		Rate: of(func(m measurement) float64 { return m.Rate }), Commands: of(func(m measurement) float64 { return m.Commands }),
		PerS: of(func(m measurement) float64 { return m.PerS }), Jain: of(func(m measurement) float64 { return m.Jain }),
		P50: of(func(m measurement) float64 { return m.P50 }), P99: of(func(m measurement) float64 { return m.P99 }),
		Bytes: of(func(m measurement) float64 { return m.Bytes }), Goroutines: of(func(m measurement) float64 { return m.Goroutines }),
		Grown: of(func(m measurement) float64 { return m.Grown }), Lost: res.Median.Lost + m.Lost,
		Max: of(func(m measurement) float64 { return m.Max }), Samples: res.Median.Samples + m.Samples, Broken: res.Median.Broken + m.Broken,
	}
	r.judge()
}

// broken returns how often exclusion failed in all.
func (r *report) broken() (n int64) {
	for _, res := range r.Results {
		n += res.Median.Broken
	}
	return n
}

// ratio returns the median over rounds of a figure of warlock's over that of
// another system's in the same round.
func (r *report) ratio(name, system string, figure func(measurement) float64) float64 {
	return r.over(name, ours, system, figure)
}

// over is ratio for any two systems.
func (r *report) over(name, system, other string, figure func(measurement) float64) float64 {
	a, b := r.find(name, system), r.find(name, other)
	if a == nil || b == nil {
		return 0
	}
	var xs []float64
	for i := range min(len(a.Rounds), len(b.Rounds)) {
		if d := figure(b.Rounds[i]); d > 0 {
			xs = append(xs, figure(a.Rounds[i])/d)
		}
	}
	return median(xs)
}

func rate(m measurement) float64 { return m.Rate }
func p50(m measurement) float64  { return m.P50 }

// judge holds warlock's figures, as far as they are there, against the goals.
func (r *report) judge() {
	r.Goals = nil
	peers := func(name, system string) (best float64) { // the lowest ratio to a peer
		for _, s := range systems[1:] {
			if x := r.over(name, system, s.name, rate); x > 0 && (best == 0 || x < best) {
				best = x
			}
		}
		return best
	}
	if r.find(uncontended, ours) != nil {
		r.atLeast(uncontended, "rate over raw", r.ratio(uncontended, rawName, rate), 0.9)
		r.atLeast(uncontended, "rate over the best peer", peers(uncontended, ours), 1)
	}
	if res := r.find(oneProcess, ours); res != nil {
		r.atLeast(oneProcess, "rate over the best peer", peers(oneProcess, ours), 100)
		r.atLeast(oneProcess, "Jain's index", res.Median.Jain, 0.98)
	}
	if r.find(oneProcess, reading.name) != nil {
		r.atLeast(oneProcess, "rate of readers over the best peer", peers(oneProcess, reading.name), 100)
	}
	r.judgeKeyed()
	if res := r.find(among, reading.name); res != nil {
		r.atMost(among, "p99 in ms", res.Median.P99, 50)
	}
	if res := r.find(clients(8), ours); res != nil {
		r.atMost(clients(8), "commands per acquisition", res.Median.Commands, 2.2)
		r.atLeast(clients(8), "Jain's index", res.Median.Jain, 0.99)
		r.atLeast(clients(8), "rate over "+redsync1, r.ratio(clients(8), redsync1, rate), 1)
		r.atLeast(clients(8), "rate over "+redislock1, r.ratio(clients(8), redislock1, rate), 1)
	}
	if least, most := r.flatness(); least > 0 {
		r.atMost("2 to 128 clients", "most over least commands per acquisition", most/least, 1.15)
	}
	if r.find(handOver, ours) != nil {
		r.atMost(handOver, "p50 over "+rueidisName, r.ratio(handOver, rueidisName, p50), 0.75)
		r.atMost(handOver, "p50 over "+redislock1, r.ratio(handOver, redislock1, p50), 0.5)
	}
	if res := r.find(park, ours); res != nil {
		r.atMost(park, "commands per second", res.Median.PerS, 15)
	}
	if res := r.find(killed, ours); res != nil {
		r.atMost(killed, "p99 in ms", res.Median.P99, float64((killTTL+killGrace)/time.Millisecond))
	}
}

// judgeKeyed is judge for a lock per ID.
func (r *report) judgeKeyed() {
	if r.find(uncontended, keyed.name) != nil && r.find(uncontended, ours) != nil {
		r.atLeast(uncontended, "rate of a Keyed over a Mutex", r.over(uncontended, keyed.name, ours, rate), 0.95)
	}
	if r.find(manyKeys, keyed.name) != nil {
		r.atLeast(manyKeys, "rate over "+redislock1, r.over(manyKeys, keyed.name, redislock1, rate), 2.2)
		r.atLeast(manyKeys, "rate over "+rueidisName, r.over(manyKeys, keyed.name, rueidisName, rate), 1.5)
	}
	if res := r.find(manyHeld, keyed.name); res != nil {
		r.atMost(manyHeld, "leases lost", float64(res.Median.Lost), 0)
		r.atMost(manyHeld, "bytes each", res.Median.Bytes, 2048)
		r.atMost(manyHeld, "goroutines each", res.Median.Goroutines, 0.01)
	}
	if res := r.find(manyUsed, keyed.name); res != nil {
		r.atMost(manyUsed, "heap grown or shrunk, MiB", math.Abs(res.Median.Grown), 8)
	}
}

func (r *report) atLeast(name, what string, value, bound float64) {
	r.Goals = append(r.Goals, goal{name, what, value, bound, value >= bound})
}

func (r *report) atMost(name, what string, value, bound float64) {
	r.Goals = append(r.Goals, goal{name, what, value, bound, value <= bound})
}

// flatness returns the least and the most commands per acquisition over the crowds.
func (r *report) flatness() (least, most float64) {
	for _, n := range crowds {
		res := r.find(clients(n), ours)
		if res == nil {
			return 0, 0
		}
		c := res.Median.Commands
		if least == 0 || c < least {
			least = c
		}
		most = max(most, c)
	}
	return least, most
}

// A column is a figure of the tables. Those that a case has not are empty.
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

// rows returns the table of results, with its head.
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

// goals returns the table of goals, with its head.
func (r *report) goals() [][]string {
	rows := [][]string{{"case", "figure", "measured", "goal", "met"}}
	for _, g := range r.Goals {
		met := "yes"
		if !g.Met {
			met = "no"
		}
		rows = append(rows, []string{g.Case, g.What, cmp.Or(number(g.Value), "0"), cmp.Or(number(g.Bound), "0"), met})
	}
	return rows
}

func (r *report) print(w io.Writer) {
	for _, rows := range [][][]string{r.rows(), r.goals()} {
		table := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
		for _, row := range rows {
			fmt.Fprintln(table, strings.Join(row, "\t"))
		}
		_ = table.Flush() // a terminal that cannot be written to
		fmt.Fprintln(w)
	}
	fmt.Fprintln(w, r.made())
}

// made says what the figures were made with.
func (r *report) made() string {
	parts := []string{fmt.Sprintf("Made on %s with %d CPUs, Go %s, Redis %s", r.Date, r.CPUs, r.Go, r.Redis)}
	for _, path := range compared {
		parts = append(parts, path+" "+cmp.Or(r.Versions[path], "(unknown)"))
	}
	return strings.Join(parts, ", ") + fmt.Sprintf("; ttl %s, %d rounds of %s.", r.TTL, r.Rounds, r.Window)
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

// write leaves the results in folder dir, and in the README beside it if that
// has a place for them.
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

const (
	begin = "<!-- results -->"
	end   = "<!-- /results -->"
)

// between replaces what stands between the markers in text.
func between(text []byte, results string) ([]byte, error) {
	head, rest, ok1 := bytes.Cut(text, []byte(begin))
	_, tail, ok2 := bytes.Cut(rest, []byte(end))
	if !ok1 || !ok2 {
		return nil, fmt.Errorf("the markers %s and %s are not there", begin, end)
	}
	return fmt.Appendf(nil, "%s%s\n%s\n%s%s", head, begin, strings.TrimSpace(results), end, tail), nil
}
