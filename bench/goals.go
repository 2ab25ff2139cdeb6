package main

import (
	"math"
	"time"
)

// A goal is a target with the figure that the run measured.
type goal struct {
	Case  string  `json:"case"`
	What  string  `json:"what"`
	Value float64 `json:"value"`
	Bound float64 `json:"bound"`
	Met   bool    `json:"met"`
}

// A target bounds one of warlock's figures in one case.
type target struct {
	name    string // of the case
	what    string // names the figure in the report
	measure measure
	met     comparison
	bound   float64
}

// A measure returns a figure of a case. It reports false if the run has no
// result to take the figure from.
type measure func(r *report, name string) (value float64, measured bool)

// A comparison reports whether a value meets its bound.
type comparison func(value, bound float64) bool

func atLeast(value, bound float64) bool { return value >= bound }
func atMost(value, bound float64) bool  { return value <= bound }

// allCrowds stands for the cases of all crowds together.
const allCrowds = "2 to 128 clients"

// targets are in the order of the report.
var targets = []target{
	{uncontended, "rate over raw", ratio(ours, rawName, rate), atLeast, 0.9},
	{uncontended, "rate over the best peer", overBestPeer(ours), atLeast, 1},
	{uncontended, "rate of a Keyed over a Mutex", ratio(keyed.name, ours, rate), atLeast, 0.95},
	{uncontendedPlain, "rate over raw", ratio(ours, rawName, rate), atLeast, 0.9},
	{uncontendedTimed, "rate over raw", ratio(ours, rawName, rate), atLeast, 0.85},
	{oneProcess, "rate over the best peer", overBestPeer(ours), atLeast, 100},
	{oneProcess, "Jain's index", figure(ours, jainIndex), atLeast, 0.98},
	{oneProcess, "rate of readers over the best peer", overBestPeer(reading.name), atLeast, 100},
	{oneProcessTimed, "rate over the best peer", overBestPeer(ours), atLeast, 100},
	{manyKeys, "rate over " + redislock1, ratio(keyed.name, redislock1, rate), atLeast, 3},
	{manyKeys, "rate over " + rueidisName, ratio(keyed.name, rueidisName, rate), atLeast, 2},
	{manyHeld, "leases lost", figure(keyed.name, lost), atMost, 0},
	{manyHeld, "bytes each", figure(keyed.name, bytesEach), atMost, 2048},
	{manyHeld, "goroutines each", figure(keyed.name, goroutinesEach), atMost, 0.01},
	{manyHeld, "commands per second", figure(keyed.name, commandsPerSecond), atMost, 2000},
	{relock, "rate over raw", ratio(retained.name, rawName, rate), atLeast, 200},
	{relock, "commands each", figure(retained.name, commands), atMost, 0.01},
	{idleTaken, "p50 over a hand-off", ratio(retained.name, ours, p50), atMost, 2},
	{twoInTurn, "rate over no retention", ratio(retained.name, ours, rate), atLeast, 0.9},
	{twoAtOnce, "rate over no retention", ratio(retained.name, ours, rate), atLeast, 0.9},
	{hotKeys, "rate over " + redislock1, ratio(retainedKeyed.name, redislock1, rate), atLeast, 100},
	{manyAtOnce, "p50 in ms", figure(keyed.name, p50), atMost, 10},
	{manyUsed, "heap grown or shrunk, MiB", figure(keyed.name, heapChange), atMost, 8},
	{manyUsed, "heap with retention, MiB", figure(retainedKeyed.name, heapChange), atMost, 8},
	{manyUsed, "commands each with retention", figure(retainedKeyed.name, commands), atMost, 2},
	{among, "p99 in ms", figure(reading.name, p99), atMost, 50},
	{clients(8), "commands per acquisition", figure(ours, commands), atMost, 2.2},
	{clients(8), "Jain's index", figure(ours, jainIndex), atLeast, 0.99},
	{clients(8), "rate over " + redsync1, ratio(ours, redsync1, rate), atLeast, 1},
	{clients(8), "rate over " + redislock1, ratio(ours, redislock1, rate), atLeast, 1},
	{allCrowds, "most over least commands per acquisition", mostOverLeast, atMost, 1.15},
	{handOver, "p50 over " + rueidisName, ratio(ours, rueidisName, p50), atMost, 0.75},
	{handOver, "p50 over " + redislock1, ratio(ours, redislock1, p50), atMost, 0.5},
	{park, "commands per second", figure(ours, commandsPerSecond), atMost, 15},
	{killed, "p99 in ms", figure(ours, p99), atMost, inMS(killTTL + killGrace)},
	{quorumAlone(3), "rate over " + redsyncName, ratio(ours, redsyncName, rate), atLeast, 1},
	{quorumAlone(5), "rate over " + redsyncName, ratio(ours, redsyncName, rate), atLeast, 1},
	{quorumClients(3), "rate over " + redsyncName, ratio(ours, redsyncName, rate), atLeast, 3},
	{quorumClients(3), "Jain's index", figure(ours, jainIndex), atLeast, 0.98},
	{quorumClients(5), "rate over " + redsyncName, ratio(ours, redsyncName, rate), atLeast, 3},
	{quorumClients(5), "Jain's index", figure(ours, jainIndex), atLeast, 0.98},
	{quorumFrozen, "p50 over none frozen", ratio(ours, ours+noneFrozen, p50), atMost, 1.2},
	{quorumHandOver, "p50 in round trips", ratio(ours, pingAll, p50), atMost, 3},
}

func inMS(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }

func rate(m measurement) float64              { return m.Rate }
func p50(m measurement) float64               { return m.P50 }
func p99(m measurement) float64               { return m.P99 }
func jainIndex(m measurement) float64         { return m.Jain }
func commands(m measurement) float64          { return m.Commands }
func commandsPerSecond(m measurement) float64 { return m.PerS }
func lost(m measurement) float64              { return float64(m.Lost) }
func bytesEach(m measurement) float64         { return m.Bytes }
func goroutinesEach(m measurement) float64    { return m.Goroutines }
func heapChange(m measurement) float64        { return math.Abs(m.Grown) }

// judge compares warlock's figures with the targets. It leaves out targets
// whose cases the run did not measure.
func (r *report) judge() {
	r.Goals = nil
	for _, t := range targets {
		if value, measured := t.measure(r, t.name); measured {
			r.Goals = append(r.Goals, goal{t.name, t.what, value, t.bound, t.met(value, t.bound)})
		}
	}
}

// figure measures the median of one figure of a system.
func figure(system string, of func(measurement) float64) measure {
	return func(r *report, name string) (float64, bool) {
		res := r.find(name, system)
		if res == nil {
			return 0, false
		}
		return of(res.Median), true
	}
}

// ratio measures a figure of system over the same figure of other.
func ratio(system, other string, of func(measurement) float64) measure {
	return func(r *report, name string) (float64, bool) {
		if r.find(name, system) == nil || r.find(name, other) == nil {
			return 0, false
		}
		return r.over(name, system, other, of), true
	}
}

// overBestPeer measures the rate of system over that of its fastest peer.
func overBestPeer(system string) measure {
	return func(r *report, name string) (least float64, measured bool) {
		for _, peer := range systems[1:] {
			x := r.over(name, system, peer.name, rate)
			if x > 0 && (least == 0 || x < least) {
				least = x
			}
		}
		return least, r.find(name, system) != nil
	}
}

// over returns the median over the rounds of a figure of system over the same
// figure of other. Both figures of a ratio come from the same round.
func (r *report) over(name, system, other string, of func(measurement) float64) float64 {
	a, b := r.find(name, system), r.find(name, other)
	if a == nil || b == nil {
		return 0
	}
	var xs []float64
	for i := range min(len(a.Rounds), len(b.Rounds)) {
		if d := of(b.Rounds[i]); d > 0 {
			xs = append(xs, of(a.Rounds[i])/d)
		}
	}
	return median(xs)
}

// mostOverLeast measures how much warlock's commands per acquisition differ
// between crowds.
func mostOverLeast(r *report, _ string) (float64, bool) {
	least, most := r.flatness()
	if least == 0 {
		return 0, false
	}
	return most / least, true
}

// flatness returns the least and the most commands per acquisition over the
// crowds. It returns zeros if a crowd was not measured.
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
