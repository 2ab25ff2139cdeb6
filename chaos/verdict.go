package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"

	"github.com/warlock-go/warlock/chaos/judge"
)

// A verdict is the outcome of a run: the report on its history, what the other
// judges found, and figures.
type verdict struct {
	*judge.Report
	Scenario     string
	Faults       int
	Stale        int // how many requests the store refused
	LostFenced   int // how many updates with fencing the store lost
	LostPlain    int // how many updates without fencing the store lost
	ToKeep       int // how many leases were held when a master was killed
	NotKept      int // how many of these its successor did not have
	CrashTimes   times
	HandOffTimes times
	Invalid      string // why the run proves nothing; empty: it does
	Took         time.Duration

	history *judge.History
}

// times are percentiles of how long something took.
type times struct {
	N             int
	P50, P99, Max time.Duration
}

func timesOf(ds []time.Duration) times {
	h := hdrhistogram.New(1, int64(time.Hour/time.Microsecond), 3)
	for _, d := range ds {
		_ = h.RecordValue(max(1, d.Microseconds())) // never out of range
	}
	at := func(q float64) time.Duration {
		return time.Duration(h.ValueAtQuantile(q)) * time.Microsecond
	}
	return times{N: len(ds), P50: at(50), P99: at(99), Max: at(100)}
}

// passed reports whether the run proves something, and no judge found anything.
func (v *verdict) passed() bool { return v.Invalid == "" && len(v.Violations) == 0 }

// judge asks all judges. left are the violations that were found at the end.
func (r *scenarioRun) judge(left []judge.Violation) *verdict {
	h := r.recorder.History()
	v := &verdict{
		Report: judge.Judge(h), Scenario: r.name, Faults: r.faultsMade, history: h,
	}
	v.CrashTimes, v.HandOffTimes = timesOf(v.Crashes), timesOf(v.HandOffs)
	v.judgeStore(r.store, len(r.scenario.faults) == 0)
	v.judgeSuccessions(r.successions, r.load.Replicas)
	v.Violations = slices.Concat(v.Violations, r.workers.violations(), left)
	v.Invalid = r.invalid(v)
	v.Took = now().Since(h.Began)
	return v
}

// judgeStore finds updates that the store lost although they were fenced. In a
// calm run it also finds updates lost without fencing, and refused requests.
func (v *verdict) judgeStore(s *Store, calm bool) {
	f := &judge.Findings{Judge: "fencing"}
	v.LostFenced, v.LostPlain, v.Stale = s.lost()
	if calm && (v.LostPlain != 0 || v.Stale != 0) {
		f.Add(judge.AllKeys, "%d updates were lost and %d requests refused, though nothing was wrong",
			v.LostPlain, v.Stale)
	}
	if v.LostFenced != 0 {
		f.Add(judge.AllKeys, "%d updates were lost although they were fenced", v.LostFenced)
	}
	v.Violations = append(v.Violations, f.Violations...)
}

// invalid returns why a run proves nothing: it had too few grants, too few
// faults, or no grant of a kind of lock. It returns "" if the run proves
// something.
func (r *scenarioRun) invalid(v *verdict) string {
	const (
		grantsPerSecond = 5
		faultEvery      = 20 * time.Second // a failover can take as long
	)
	if least := int(r.duration.Seconds() * grantsPerSecond); v.Grants < least {
		return fmt.Sprintf("%d grants, %d is the least", v.Grants, least)
	}
	least := max(1, int(r.duration/faultEvery))
	if len(r.scenario.faults) > 0 && v.Faults < least {
		return fmt.Sprintf("%d faults, %d is the least", v.Faults, least)
	}
	if r.scenario.load.Retains && v.Relocks == 0 {
		return "no lock was retained"
	}
	for _, kind := range r.scenario.load.kinds() {
		if v.Kinds[kind]+v.Kinds[kind+judge.Reading] == 0 {
			return "no grant of a " + kind
		}
	}
	return ""
}

// preserve keeps a history that shows violations: the whole history as JSON,
// and porcupine's page for each key concerned.
func (r *scenarioRun) preserve(v *verdict) error {
	if len(v.Violations) == 0 || r.keep == "" {
		return nil
	}
	if err := os.MkdirAll(r.keep, 0o777); err != nil {
		return err
	}
	scenario := strings.NewReplacer(",", "", " ", "-").Replace(r.name)
	name := filepath.Join(r.keep, fmt.Sprintf("%s-%d", scenario, r.seed))
	text, err := json.MarshalIndent(struct {
		*judge.History
		Violations []judge.Violation
	}{v.history, v.Violations}, "", " ")
	if err == nil {
		err = os.WriteFile(name+".json", text, 0o666)
	}
	drawn := make(map[int]bool)
	for _, x := range v.Violations {
		if x.Key != judge.AllKeys && !drawn[x.Key] {
			drawn[x.Key] = true
			err = errors.Join(err, v.history.Draw(x.Key, fmt.Sprintf("%s-%d.html", name, x.Key)))
		}
	}
	return err
}
