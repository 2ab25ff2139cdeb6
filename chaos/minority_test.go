package main

import (
	"context"
	"math/rand/v2"
	"testing"

	"github.com/warlock-go/warlock/chaos/judge"
	"github.com/warlock-go/warlock/internal/redistest"
)

// A fault of a minority hits one server of three and two of five, mends all of them, and
// excuses no lost data.
func TestBefall(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel() // the fault waits for nothing
	for kind, want := range map[string]int{quorum3: 1, quorum5: 2} {
		var hit, mended []int
		r := &scenarioRun{
			ctx: ctx, rng: rand.New(rand.NewPCG(1, 1)), recorder: newRecorder(),
			backend: &backend{kind: kind, servers: make([]*redistest.Server, quorumSize(kind))},
		}
		one := trouble{begin: func(_ *scenarioRun, server int) func() {
			hit = append(hit, server)
			return func() { mended = append(mended, server) }
		}}
		ofMinority("fault", one).make(r)
		if len(hit) != want || len(mended) != want || hit[0] == hit[want-1] && want > 1 {
			t.Errorf("%s: hit servers %v and mended %v, want %d", kind, hit, mended, want)
		}
		faults := r.recorder.History().Faults
		if len(faults) != 1 || faults[0].Effects&judge.HitsMinority == 0 ||
			faults[0].Effects&(judge.MayLoseData|judge.DelaysMessages) != 0 {
			t.Errorf("%s: recorded the faults %v", kind, faults)
		}
	}
}

func newRecorder() *judge.Recorder {
	return judge.NewRecorder(&judge.History{TTL: ttl, Keys: lockKeys})
}

// Lines lead from some workers to some servers, or to all.
func TestLines(t *testing.T) {
	bed, err := newTestbed()
	if err != nil {
		t.Fatal(err)
	}
	defer bed.stop()
	n := newNetwork(bed, 2, []string{"127.0.0.1:1", "127.0.0.1:2", "127.0.0.1:3"})
	enabled := func() (list [][]bool) {
		for _, proxies := range n.proxies {
			var of []bool
			for _, p := range proxies {
				of = append(of, p.Enabled)
			}
			list = append(list, of)
		}
		return list
	}
	n.cut(lines{[]int{1}, []int{0, 2}})
	if got := enabled(); !got[0][0] || !got[0][1] || got[1][0] || !got[1][1] || got[1][2] {
		t.Errorf("lines of worker 1 to servers 0 and 2 are cut: %v", got)
	}
	n.mend(lines{[]int{1}, []int{0, 2}})
	n.cut(ofSlots([]int{0}))
	if got := enabled(); got[0][0] || got[0][1] || got[0][2] || !got[1][0] || !got[1][2] {
		t.Errorf("all lines of worker 0 are cut: %v", got)
	}
}
