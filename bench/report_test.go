package main

import (
	"slices"
	"strings"
	"testing"
)

// What was measured anew stands beside what was measured before, in the order of the cases.
func TestResultsOfOtherCasesStay(t *testing.T) {
	dir := t.TempDir()
	of := func(date, goVersion string, rate float64, cases ...string) *report {
		r := &report{Date: date, Go: goVersion}
		for _, name := range cases {
			r.add(name, ours, measurement{Rate: rate})
		}
		return r
	}
	order := []string{"a", "b", "c"}
	first := of("2026-01-01", "1", 1, "a", "c")
	if err := first.keep(dir, order); err != nil || len(first.Results) != 2 {
		t.Fatalf("without old results: %v, %d results", err, len(first.Results))
	}
	if err := first.write(dir); err != nil {
		t.Fatal(err)
	}
	second := of("2026-01-02", "1", 2, "c", "b")
	if err := second.keep(dir, order); err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, res := range second.Results {
		got = append(got, strings.TrimSpace(res.Case+" "+res.Date))
		if want := float64(min(2, len(got))); res.Median.Rate != want {
			t.Errorf("%s has the rate %v, want %v", res.Case, res.Median.Rate, want)
		}
	}
	want := []string{"a", "b 2026-01-02", "c 2026-01-02"}
	if !slices.Equal(got, want) || second.Date != first.Date {
		t.Errorf("the results are %q of %s", got, second.Date)
	}
	made, later := second.made(), "b: 2026-01-02.\nc: 2026-01-02."
	if !strings.Contains(made, "2026-01-01") || !strings.HasSuffix(made, later) {
		t.Errorf("it says %q", made)
	}
	err := of("2026-01-02", "2", 2, "b").keep(dir, order)
	if err == nil || !strings.Contains(err.Error(), "measure all cases") {
		t.Errorf("results of another Go are kept: %v", err)
	}
}

func TestCasesThatDoNotExist(t *testing.T) {
	b := newBench()
	b.cases = []string{"uncontented"}
	_, err := b.measure()
	if err == nil || !strings.Contains(err.Error(), `"uncontented"`) ||
		!strings.Contains(err.Error(), `"uncontended"`) {
		t.Errorf("the error is %v", err)
	}
}
