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

// With these variables this program is a holder, which the benchmark kills.
const (
	holdVar = "WARLOCK_BENCH_HOLD" // the name of the system
	addrVar = "WARLOCK_BENCH_ADDR"
	keyVar  = "WARLOCK_BENCH_KEY"
)

// Holders to be killed have a ttl of killTTL. The next holder may have the lock
// up to killGrace after the ttl.
const (
	killTTL   = 500 * time.Millisecond
	killGrace = 200 * time.Millisecond
)

// abreast is how many holders run at the same time, each with its own key.
const abreast = 5

// kills measures n times how long a waiter in this process waits after kill -9
// of the holder.
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
			_ = times.RecordValue(int64(d)) // never out of range
		}
		m.Samples += int64(len(results))
	}
	m.latenciesOfFew(times)
	return m, nil
}

// latenciesOfFew is latencies for what may be few samples. With fewer than 100
// the highest stands for the 99th percentile.
func (m *measurement) latenciesOfFew(h *hdrhistogram.Histogram) {
	m.latencies(h)
	if h.TotalCount() < 100 {
		m.P99 = m.Max
	}
}

// kill kills a holder of key while a waiter waits. It returns the time from the
// kill to the acquisition by the waiter.
func (b *bench) kill(sys system, key string) (took time.Duration, err error) {
	holder, err := b.startHolder(sys, key)
	if err != nil {
		return 0, err
	}
	defer holder.kill() // for the returns before the kill
	c, err := sys.connect(setup{addr: b.server.addr, ttl: killTTL, dial: new(wire).dial})
	if err != nil {
		return 0, err
	}
	defer func() { err = firstOf(err, c.close()) }()
	l := c.locker(key)
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	waiting := lockInBackground(ctx, l)
	select {
	case got := <-waiting:
		return 0, fmt.Errorf("%s: a living holder's lock was taken: %v", sys.name, got.err)
	case <-time.After(settle + rand.N(killTTL)):
	}
	killed := time.Now()
	if err := holder.cmd.Process.Kill(); err != nil {
		return 0, err
	}
	got := <-waiting
	if got.err != nil {
		return 0, got.err
	}
	return got.at.Sub(killed), l.unlock()
}

// A holder is a process that holds a lock until it is killed.
type holder struct{ cmd *exec.Cmd }

// startHolder starts a holder of key, and returns when it has the lock.
func (b *bench) startHolder(sys system, key string) (*holder, error) {
	h := &holder{exec.Command(os.Args[0])}
	h.cmd.Env = append(os.Environ(), holdVar+"="+sys.name, addrVar+"="+b.server.addr, keyVar+"="+key)
	h.cmd.Stderr = os.Stderr
	out, err := h.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := h.cmd.Start(); err != nil {
		return nil, err
	}
	if _, err := bufio.NewReader(out).ReadString('\n'); err != nil {
		h.kill()
		return nil, fmt.Errorf("the holder does not hold: %w", err)
	}
	return h, nil
}

// kill ends the process if it still runs, and waits for its end.
func (h *holder) kill() {
	_ = h.cmd.Process.Kill() // fails if the process has ended
	_ = h.cmd.Wait()         // reports the kill
}

// hold runs in the holder's process. It locks, prints "held", and renews until
// the process is killed.
func hold(name string) error {
	sys, err := find(name)
	if err != nil {
		return err
	}
	c, err := sys.connect(setup{addr: os.Getenv(addrVar), ttl: killTTL, dial: new(wire).dial})
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
