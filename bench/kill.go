package main

import (
	"bufio"
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"sync"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"
)

// Variables that make this program the holder that is to be killed.
const (
	holdVar = "WARLOCK_BENCH_HOLD" // the name of the system
	addrVar = "WARLOCK_BENCH_ADDR"
	keyVar  = "WARLOCK_BENCH_KEY"
)

// killTTL is the ttl under which holders are killed, and grace what may be added
// to it until the next one holds.
const (
	killTTL   = 500 * time.Millisecond
	killGrace = 200 * time.Millisecond
)

// abreast is how many holders of different keys are killed side by side.
const abreast = 5

// kills measures the time from kill -9 of a holder to the next acquisition, by a
// waiter in this process, n times.
func (b *bench) kills(sys system, n int) (m measurement, err error) {
	times := newHistogram()
	for m.Samples < int64(n) {
		var group sync.WaitGroup
		results := make([]time.Duration, min(abreast, n-int(m.Samples)))
		errs := make([]error, len(results))
		for i := range results {
			group.Go(func() {
				results[i], errs[i] = b.kill(sys, fmt.Sprintf("killed:%d:%d", m.Samples, i))
			})
		}
		group.Wait()
		if err := firstOf(errs...); err != nil {
			return m, err
		}
		for _, d := range results {
			_ = times.RecordValue(int64(d)) // within its range by far
		}
		m.Samples += int64(len(results))
	}
	m.latenciesOf(times)
	return m, nil
}

// latenciesOf is latencies for few samples, of which the 99th percentile is an
// interpolation at best: the highest stands for it.
func (m *measurement) latenciesOf(h *hdrhistogram.Histogram) {
	m.latencies(h)
	if h.TotalCount() < 100 {
		m.P99 = m.Max
	}
}

func (b *bench) kill(sys system, key string) (after time.Duration, err error) {
	holder := exec.Command(os.Args[0])
	holder.Env = append(os.Environ(), holdVar+"="+sys.name, addrVar+"="+b.server.addr, keyVar+"="+key)
	holder.Stderr = os.Stderr
	out, err := holder.StdoutPipe()
	if err != nil {
		return 0, err
	}
	if err := holder.Start(); err != nil {
		return 0, err
	}
	dead := false
	defer func() {
		if !dead {
			_ = holder.Process.Kill() // after another error, which is returned
		}
		_ = holder.Wait() // it was killed
	}()
	if _, err := bufio.NewReader(out).ReadString('\n'); err != nil {
		return 0, fmt.Errorf("the holder does not hold: %w", err)
	}

	c, err := sys.connect(setup{b.server.addr, killTTL, new(wire).dial})
	if err != nil {
		return 0, err
	}
	defer func() { err = firstOf(err, c.close()) }()
	l := c.locker(key)
	waiting := make(chan locked, 1)
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	go func() { // ends with ctx at the latest
		err := l.lock(ctx)
		waiting <- locked{time.Now(), err}
	}()
	select {
	case got := <-waiting:
		return 0, fmt.Errorf("%s: a living holder's lock was taken: %v", sys.name, got.err)
	case <-time.After(settle + rand.N(killTTL)):
	}
	killed := time.Now()
	if err := holder.Process.Kill(); err != nil {
		return 0, err
	}
	dead = true
	got := <-waiting
	if got.err != nil {
		return 0, got.err
	}
	return got.at.Sub(killed), l.unlock()
}

// hold is what the holder does: it locks, says so, and renews until it is killed.
func hold(name string) error {
	sys, err := find(name)
	if err != nil {
		return err
	}
	c, err := sys.connect(setup{os.Getenv(addrVar), killTTL, new(wire).dial})
	if err != nil {
		return err
	}
	l := c.locker(os.Getenv(keyVar))
	if err := l.lock(context.Background()); err != nil {
		return err
	}
	fmt.Println("held")
	return keepRenewed(context.Background(), l, killTTL)
}

func find(name string) (system, error) {
	for _, s := range systems {
		if s.name == name {
			return s, nil
		}
	}
	return system{}, fmt.Errorf("there is no system %q", name)
}
