package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
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
	LostPlain  int            // updates of the store without fencing
	Pairs      int            // of which the order was judged
	Crashes    times
	HandOffs   times
	Violations []violation
	Invalid    string // why the run proves nothing; empty if it does
	Took       time.Duration

	history *history
}

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
	h := s.recorder.history()
	v := &verdict{Scenario: s.name, Faults: s.made, Kinds: make(map[string]int), history: h}
	for _, o := range h.Ops {
		if !o.granted() {
			continue
		}
		v.Grants++
		kind := o.Kind
		if o.Read {
			kind += ", read"
		}
		v.Kinds[kind]++
		if o.Lost != 0 {
			v.Lost++
		}
	}
	add := func(vs []violation) { v.Violations = append(v.Violations, vs...) }
	add(judgeModel(h))
	overlaps, excused := judgeOverlap(h)
	add(overlaps)
	v.Excused = excused
	add(judgeBelief(h))
	add(judgeTokens(h))
	add(judgeEarly(h))
	add(judgeRevived(h))
	order, pairs := judgeOrder(h)
	add(order)
	turns, more := judgeTurns(h)
	add(turns)
	v.Pairs = pairs + more
	add(judgeIdle(h))
	took, crashes := h.crashes()
	add(crashes)
	v.Crashes = timesOf(took)
	slow, took := judgeHandOffs(h)
	add(slow)
	v.HandOffs = timesOf(took)
	add(judgeLost(h))
	add(judgeOps(h))
	add(s.judgeStore(v))
	add(s.crew.found())
	add(left)
	v.Invalid = s.tooLittle(v)
	v.Took = now().since(h.Began)
	return v
}

// judgeStore finds updates that got lost although they were fenced, or although nothing was wrong.
func (s *stage) judgeStore(v *verdict) []violation {
	f := &finding{judge: "fencing"}
	fenced, plain, stale := s.store.lost()
	v.LostPlain, v.Stale = plain, stale
	if len(s.scenario.faults) == 0 && (plain != 0 || stale != 0) {
		f.add(allKeys, "%d updates were lost and %d requests refused, though nothing was wrong", plain, stale)
	}
	if fenced != 0 {
		f.add(allKeys, "%d updates were lost although they were fenced", fenced)
	}
	return f.violations
}

// tooLittle returns why a run was too idle to prove anything.
func (s *stage) tooLittle(v *verdict) string {
	const (
		grantsPerSecond = 5
		faultEvery      = 6 * time.Second // some take longer than others
	)
	if least := int(s.plan.load.Seconds() * grantsPerSecond); v.Grants < least {
		return fmt.Sprintf("%d grants, %d is the least", v.Grants, least)
	}
	least := int(s.plan.load / faultEvery)
	if len(s.scenario.faults) > 0 && v.Faults < least {
		return fmt.Sprintf("%d faults, %d is the least", v.Faults, least)
	}
	if s.scenario.load.Fresh {
		return ""
	}
	for _, kind := range []string{mutex, rwMutex, rwMutex + ", read", keyed, keyed + ", read"} {
		if v.Kinds[kind] == 0 {
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
