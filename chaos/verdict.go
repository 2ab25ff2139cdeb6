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
)

// A verdict is what is to be said of a run.
type verdict struct {
	Scenario   string
	Faults     int
	Grants     int
	Kinds      map[string]int // grants by kind and mode
	Lost       int            // leases
	Excused    int            // overlaps
	Stale      int            // requests that the store refused
	LostFenced int            // updates of the store, with fencing
	LostPlain  int            // and without
	Pairs      int            // of which the order was judged
	Crashes    times
	HandOffs   times
	Violations []violation
	Invalid    string // why the run proves nothing; empty if it does
	Took       time.Duration

	history *history
}

// reading follows the kind of a lock.
const reading = ", read"

// times are how long something took.
type times struct {
	N             int
	P50, P99, Max time.Duration
}

func timesOf(ds []time.Duration) times {
	h := hdrhistogram.New(1, int64(time.Hour/time.Microsecond), 3)
	for _, d := range ds {
		_ = h.RecordValue(max(1, d.Microseconds())) // within an hour
	}
	at := func(q float64) time.Duration { return time.Duration(h.ValueAtQuantile(q)) * time.Microsecond }
	return times{N: len(ds), P50: at(50), P99: at(99), Max: at(100)}
}

// passed reports whether the run proves something, and nothing was found.
func (v *verdict) passed() bool { return v.Invalid == "" && len(v.Violations) == 0 }

// judge asks all judges.
func (s *stage) judge(left []violation) *verdict {
	v := &verdict{Scenario: s.name, Faults: s.made, Kinds: make(map[string]int), history: s.recorder.history()}
	v.count()
	v.judgeHistory()
	v.judgeStore(s.store, len(s.scenario.faults) == 0)
	v.Violations = slices.Concat(v.Violations, s.crew.found(), left)
	v.Invalid = s.tooLittle(v)
	v.Took = now().since(v.history.Began)
	return v
}

func (v *verdict) count() {
	for _, o := range v.history.Ops {
		if !o.granted() {
			continue
		}
		v.Grants++
		kind := o.Kind
		if o.Read {
			kind += reading
		}
		v.Kinds[kind]++
		if o.Lost != 0 {
			v.Lost++
		}
	}
}

// judgeHistory asks those who judge by the history alone.
func (v *verdict) judgeHistory() {
	h := v.history
	overlaps, excused := judgeOverlap(h)
	order, pairs := judgeOrder(h)
	turns, more := judgeTurns(h)
	crashes, toGrant := judgeCrashes(h)
	slow, handOffs := judgeHandOffs(h)
	v.Excused, v.Pairs = excused, pairs+more
	v.Crashes, v.HandOffs = timesOf(toGrant), timesOf(handOffs)
	v.Violations = slices.Concat(v.Violations, judgeModel(h), overlaps, judgeBelief(h), judgeTokens(h), judgeEarly(h),
		judgeRevived(h), judgeLost(h), order, turns, judgeIdle(h), crashes, slow, judgeOps(h))
}

// judgeStore finds updates that got lost although they were fenced, or although nothing was wrong.
func (v *verdict) judgeStore(s *Store, calm bool) {
	f := &finding{judge: "fencing"}
	v.LostFenced, v.LostPlain, v.Stale = s.lost()
	if calm && (v.LostPlain != 0 || v.Stale != 0) {
		f.add(allKeys, "%d updates were lost and %d requests refused, though nothing was wrong", v.LostPlain, v.Stale)
	}
	if v.LostFenced != 0 {
		f.add(allKeys, "%d updates were lost although they were fenced", v.LostFenced)
	}
	v.Violations = append(v.Violations, f.violations...)
}

// tooLittle returns why a run was too idle to prove anything.
func (s *stage) tooLittle(v *verdict) string {
	const (
		grantsPerSecond = 5
		faultEvery      = 20 * time.Second // a failover can take as long
	)
	if least := int(s.duration.Seconds() * grantsPerSecond); v.Grants < least {
		return fmt.Sprintf("%d grants, %d is the least", v.Grants, least)
	}
	least := max(1, int(s.duration/faultEvery))
	if len(s.scenario.faults) > 0 && v.Faults < least {
		return fmt.Sprintf("%d faults, %d is the least", v.Faults, least)
	}
	for _, kind := range s.scenario.load.kinds() {
		if v.Kinds[kind]+v.Kinds[kind+reading] == 0 {
			return "no grant of a " + kind
		}
	}
	return ""
}

// preserve keeps a history that shows violations: all of it, and a page for each key that they are of.
func (s *stage) preserve(v *verdict) error {
	if len(v.Violations) == 0 || s.keep == "" {
		return nil
	}
	if err := os.MkdirAll(s.keep, 0o777); err != nil {
		return err
	}
	name := filepath.Join(s.keep, fmt.Sprintf("%s-%d", strings.NewReplacer(",", "", " ", "-").Replace(s.name), s.seed))
	text, err := json.MarshalIndent(struct {
		*history
		Violations []violation
	}{v.history, v.Violations}, "", " ")
	if err == nil {
		err = os.WriteFile(name+".json", text, 0o666)
	}
	drawn := make(map[int]bool)
	for _, x := range v.Violations {
		if x.Key != allKeys && !drawn[x.Key] {
			drawn[x.Key] = true
			page := fmt.Sprintf("%s-%d.html", name, x.Key)
			err = errors.Join(err, v.history.draw(x.Key, goroutines, patience, page))
		}
	}
	return err
}
