package warlockotel_test

import (
	"encoding/json"
	"maps"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/common/expfmt"
	exporter "go.opentelemetry.io/otel/exporters/prometheus"
	sdkmetric "go.opentelemetry.io/otel/sdk/metric"
	"go.yaml.in/yaml/v3"

	"github.com/warlock-go/warlock"
	warlockotel "github.com/warlock-go/warlock/otel"
)

// An exposition has what Prometheus reads of all instruments.
type exposition struct {
	families map[string]bool // as the instruments are named there
	samples  map[string]bool // their lines: a histogram has several
	labels   map[string]bool
}

var (
	typeLine   = regexp.MustCompile(`(?m)^# TYPE (\w+) \w+$`)
	sampleLine = regexp.MustCompile(`(?m)^(warlock_\w+)\{(.*)\} `)
	labelName  = regexp.MustCompile(`(\w+)="`)
)

// expose tells an Observer of all kinds of events, and reads what the exporter writes.
func expose(t *testing.T) exposition {
	t.Helper()
	registry := prometheus.NewRegistry()
	reader, err := exporter.New(exporter.WithRegisterer(registry))
	if err != nil {
		t.Fatal(err)
	}
	meters := sdkmetric.NewMeterProvider(sdkmetric.WithReader(reader))
	o, err := warlockotel.New(warlockotel.WithMeterProvider(meters))
	if err != nil {
		t.Fatal(err)
	}
	for kind := warlock.EventWaiting; kind <= warlock.EventRecalled; kind++ {
		o.Observe(t.Context(), warlock.Event{
			Kind: kind, Name: "invoices", Mode: warlock.ModeWrite, Path: warlock.PathFree,
		})
	}
	return expositionOf(textOf(t, registry))
}

// textOf returns what a registry has, as Prometheus reads it.
func textOf(t *testing.T, registry *prometheus.Registry) string {
	t.Helper()
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	var text strings.Builder
	for _, f := range families {
		if _, err := expfmt.MetricFamilyToText(&text, f); err != nil {
			t.Fatal(err)
		}
	}
	return text.String()
}

func expositionOf(text string) exposition {
	e := exposition{make(map[string]bool), make(map[string]bool), map[string]bool{"job": true}}
	for _, m := range typeLine.FindAllStringSubmatch(text, -1) {
		if strings.HasPrefix(m[1], "warlock_") {
			e.families[m[1]] = true
		}
	}
	for _, m := range sampleLine.FindAllStringSubmatch(text, -1) {
		e.samples[m[1]] = true
		for _, label := range labelName.FindAllStringSubmatch(m[2], -1) {
			e.labels[label[1]] = true
		}
	}
	return e
}

var (
	grouping   = regexp.MustCompile(`\b(?:by|on|without) \(([^)]*)\)`)
	matchers   = regexp.MustCompile(`\{([^}]*)\}`)
	word       = regexp.MustCompile(`[a-z_]\w*`)
	metricName = regexp.MustCompile(`\bwarlock_\w+`)
	matcher    = regexp.MustCompile(`(\w+)(?:=~|!~|!=|=)"`)
)

// check fails the test if a query has a metric or a label that does not exist. It
// returns the metrics.
func (e exposition) check(t *testing.T, query string) []string {
	t.Helper()
	var labels []string
	for _, m := range grouping.FindAllStringSubmatch(query, -1) {
		labels = append(labels, word.FindAllString(m[1], -1)...)
	}
	query = grouping.ReplaceAllString(query, "")
	for _, m := range matchers.FindAllStringSubmatch(query, -1) {
		for _, label := range matcher.FindAllStringSubmatch(m[1], -1) {
			labels = append(labels, label[1])
		}
	}
	for _, label := range labels {
		if !e.labels[label] {
			t.Errorf("no series has the label %s, in %s", label, query)
		}
	}
	found := metricName.FindAllString(matchers.ReplaceAllString(query, ""), -1)
	for _, name := range found {
		if !e.samples[name] {
			t.Errorf("there is no %s, in %s", name, query)
		}
	}
	if len(found) == 0 {
		t.Errorf("no metric in %s", query)
	}
	return found
}

func read(t *testing.T, name string) []byte {
	t.Helper()
	text, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// Each alert asks for metrics and labels that exist.
func TestRules(t *testing.T) {
	var rules struct {
		Groups []struct {
			Rules []struct{ Alert, Expr string }
		}
	}
	if err := yaml.Unmarshal(read(t, "prometheus/warlock.rules.yml"), &rules); err != nil {
		t.Fatal(err)
	}
	e, page := expose(t), string(read(t, "../docs/observing.md"))
	for _, rule := range rules.Groups[0].Rules {
		e.check(t, rule.Expr)
		if !strings.Contains(page, "`"+rule.Alert+"`") {
			t.Errorf("docs/observing.md does not name %s", rule.Alert)
		}
	}
}

// Prometheus takes the rules, and they alert when they should. Without promtool the
// test is skipped, or fails if the environment variable WARLOCK_REQUIRE_PROMTOOL is 1.
func TestRulesByPromtool(t *testing.T) {
	promtool, err := exec.LookPath("promtool")
	if err != nil {
		const missing = "there is no promtool in PATH: Debian's package prometheus has it"
		if os.Getenv("WARLOCK_REQUIRE_PROMTOOL") == "1" {
			t.Fatal(missing + ", and WARLOCK_REQUIRE_PROMTOOL=1")
		}
		t.Skip(missing)
	}
	for _, args := range [][]string{
		{"check", "rules", "warlock.rules.yml"}, {"test", "rules", "warlock.tests.yml"},
	} {
		cmd := exec.CommandContext(t.Context(), promtool, args...)
		cmd.Dir = "prometheus"
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Errorf("%v: %v\n%s", args, err, out)
		}
	}
}

// A dashboard is what matters of a dashboard of Grafana.
type dashboard struct {
	Panels []struct {
		ID          int
		Title, Type string
		Targets     []struct{ Expr string }
		Datasource  struct{ UID string }
		GridPos     struct{ H, W, X, Y int }
	}
	Templating struct {
		List []struct{ Name, Type, Definition string }
	}
}

var labelValues = regexp.MustCompile(`^label_values\((.*), (\w+)\)$`)

// Each panel asks for metrics and labels that exist, and each instrument has a panel.
func TestDashboard(t *testing.T) {
	var d dashboard
	if err := json.Unmarshal(read(t, "grafana/warlock.json"), &d); err != nil {
		t.Fatal(err)
	}
	e := expose(t)
	missing, ids := maps.Clone(e.families), make(map[int]bool)
	for _, panel := range d.Panels {
		if ids[panel.ID] || (panel.Type != "row" && len(panel.Targets) == 0) {
			t.Errorf("the panel %s has no query, or an ID that another has", panel.Title)
		}
		ids[panel.ID] = true
		for _, target := range panel.Targets {
			for _, name := range e.check(t, target.Expr) {
				for _, suffix := range []string{"", "_bucket", "_count"} {
					delete(missing, strings.TrimSuffix(name, suffix))
				}
			}
		}
	}
	for _, v := range d.Templating.List {
		m := labelValues.FindStringSubmatch(v.Definition)
		switch {
		case v.Type == "datasource":
		case m == nil || !e.labels[m[2]]:
			t.Errorf("the variable %s is %s", v.Name, v.Definition)
		default:
			e.check(t, m[1])
		}
	}
	if len(missing) != 0 {
		t.Errorf("no panel shows %v", slices.Sorted(maps.Keys(missing)))
	}
}

// The table of the page has each instrument under both names, and each attribute.
func TestPageHasTheInstruments(t *testing.T) {
	page, e := string(read(t, "../docs/observing.md")), expose(t)
	row := regexp.MustCompile("(?m)^\\| `(warlock\\.lock\\.[a-z.]+)` \\| `(warlock_\\w+)` \\|")
	named := make(map[string]bool)
	for _, m := range row.FindAllStringSubmatch(page, -1) {
		if !e.families[m[2]] || !strings.HasPrefix(m[2], strings.ReplaceAll(m[1], ".", "_")) {
			t.Errorf("the page has %s as %s", m[1], m[2])
		}
		named[m[2]] = true
	}
	if !maps.Equal(named, e.families) {
		t.Errorf("the page has %v, and there are %v", named, e.families)
	}
	for label := range e.labels {
		attribute := strings.ReplaceAll(label, "_", ".")
		own := strings.HasPrefix(label, "warlock_") || label == "error_type"
		if own && !strings.Contains(page, "| `"+attribute+"` |") {
			t.Errorf("the page does not explain %s", attribute)
		}
	}
}
