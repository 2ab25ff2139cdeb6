package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"time"
)

// A worker is a process of this program that counts.
type worker struct {
	cmd  *exec.Cmd
	in   io.Closer // closed to let it start
	says *json.Decoder
}

// A news is a message of a worker, or the error with which the worker failed.
type news struct {
	worker int
	message
	err error
}

// supervise starts the workers, shows how far they are, and returns what they
// measured. When supervise returns, no worker is running.
func supervise(ctx context.Context, j job, procs int, stderr io.Writer) (*result, error) {
	ctx, cancel := context.WithCancel(ctx)
	workers, err := startAll(ctx, j, procs, stderr)
	defer func() {
		cancel()
		for _, w := range workers {
			_ = w.cmd.Wait() // its failure was reported, or cancel caused it
		}
	}()
	if err != nil {
		return nil, err
	}
	said := make(chan news)
	for i, w := range workers {
		go w.listen(ctx, i, said)
	}
	if err := await(ctx, said, procs, func(news) bool { return true }); err != nil {
		return nil, err
	}
	began := time.Now()
	for _, w := range workers { // which lets it begin
		if err := w.in.Close(); err != nil {
			return nil, err
		}
	}
	r := &result{expected: procs * j.Increments}
	p := newProgress(stderr, r.expected, procs)
	defer p.end()
	err = await(ctx, said, procs, func(n news) bool {
		p.show(n.worker, n.Done)
		return r.add(n)
	})
	r.took = time.Since(began)
	return r, err
}

// startAll starts so many workers. It returns those that it has started also
// with an error.
func startAll(ctx context.Context, j job, procs int, stderr io.Writer) ([]*worker, error) {
	workers := make([]*worker, 0, procs)
	for range procs {
		w, err := start(ctx, j, stderr)
		if err != nil {
			return workers, fmt.Errorf("starting a process: %w", err)
		}
		workers = append(workers, w)
	}
	return workers, nil
}

// add takes in what a worker has said, and reports whether that was its last.
func (r *result) add(n news) (last bool) {
	if n.Final == nil {
		return false
	}
	r.waits = append(r.waits, n.Final.Waits...)
	r.fence = max(r.fence, n.Final.Fence)
	return true
}

func start(ctx context.Context, j job, stderr io.Writer) (*worker, error) {
	text, err := json.Marshal(j)
	if err != nil {
		return nil, err
	}
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	cmd := exec.CommandContext(ctx, self)
	cmd.Env = append(os.Environ(), jobVar+"="+string(text))
	cmd.Stderr = stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	return &worker{cmd: cmd, in: in, says: json.NewDecoder(out)}, cmd.Start()
}

// listen sends each message of the worker to said, up to the final one.
func (w *worker) listen(ctx context.Context, i int, said chan<- news) {
	for {
		n := news{worker: i}
		n.err = w.says.Decode(&n.message)
		select {
		case said <- n:
		case <-ctx.Done():
			return
		}
		if n.err != nil || n.Final != nil {
			return
		}
	}
}

// await calls take with each message, until take has returned true procs times.
func await(ctx context.Context, said <-chan news, procs int, take func(news) bool) error {
	for procs > 0 {
		select {
		case n := <-said:
			if errors.Is(n.err, io.EOF) {
				return fmt.Errorf("process %d ended before its work was done", n.worker+1)
			}
			if n.err != nil {
				return fmt.Errorf("process %d: %w", n.worker+1, n.err)
			}
			if take(n) {
				procs--
			}
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return nil
}
