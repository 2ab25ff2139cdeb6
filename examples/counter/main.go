// Counter shows what the lock is for: several processes each read a counter in
// Redis, add one, and write it back, many times over. Under the lock no update is
// lost; with -unlocked most are.
//
// It brings a Redis of its own along (miniredis, in the first process), or uses
// the one that -redis names. Its exit status is 1 if an update was lost, and 2 if
// it could not do its work.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/google/uuid"
	"github.com/redis/go-redis/v9"
	"github.com/redis/go-redis/v9/logging"
)

var errLost = errors.New("updates were lost")

func main() {
	logging.Disable() // go-redis's own log; errors are reported here
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	err := run(ctx, os.Args[1:], os.Stdout, os.Stderr)
	switch {
	case err == nil:
	case errors.Is(err, errLost):
		fmt.Fprintln(os.Stderr, "counter:", err)
		os.Exit(1)
	case errors.Is(err, context.Canceled):
		os.Exit(2) // whoever interrupts knows
	default:
		fmt.Fprintln(os.Stderr, "counter:", err)
		os.Exit(2)
	}
}

// run is the first process, or a worker if the environment says so.
func run(ctx context.Context, args []string, stdout, stderr io.Writer) error {
	if job, ok := jobOfWorker(); ok {
		signal.Ignore(os.Interrupt) // a terminal's reaches the first process too, which ends this one
		return work(ctx, job, os.Stdin, stdout)
	}
	var job job
	flags := flag.NewFlagSet("counter", flag.ExitOnError)
	procs := flags.Int("procs", 4, "how many processes count")
	flags.IntVar(&job.Increments, "n", 250, "how often each of them adds one")
	flags.StringVar(&job.Addr, "redis", "", "`host:port` of a Redis to use (default: one is brought along)")
	flags.BoolVar(&job.Unlocked, "unlocked", false, "do without the lock")
	_ = flags.Parse(args) // exits on an error
	switch {
	case flags.NArg() > 0:
		return fmt.Errorf("unexpected argument %q: all settings are flags, see -help", flags.Arg(0))
	case *procs < 1:
		return fmt.Errorf("-procs is %d: at least one process must count", *procs)
	case job.Increments < 1:
		return fmt.Errorf("-n is %d: each process must add one at least once", job.Increments)
	}

	if job.Addr == "" {
		server, err := miniredis.Run()
		if err != nil {
			return fmt.Errorf("starting a Redis: %w", err)
		}
		defer server.Close()
		defer keepTime(server)()
		job.Addr = server.Addr()
	}
	job.Counter = "counter:" + uuid.NewString()
	return count(ctx, job, *procs, stdout, stderr)
}

// keepTime lets time pass in server, where it does not by itself, until the
// returned function is called. So the lock of a worker that dies runs out.
func keepTime(server *miniredis.Miniredis) (stop func()) {
	const step = 10 * time.Millisecond
	ticker, done, ended := time.NewTicker(step), make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		for last := time.Now(); ; {
			select {
			case now := <-ticker.C:
				server.FastForward(now.Sub(last))
				last = now
			case <-done:
				return
			}
		}
	}()
	return func() {
		ticker.Stop()
		close(done)
		<-ended
	}
}

// count has the workers count, and reports what came of it.
func count(ctx context.Context, job job, procs int, stdout, stderr io.Writer) error {
	client := redis.NewClient(&redis.Options{Addr: job.Addr})
	defer client.Close()
	if err := client.Ping(ctx).Err(); err != nil {
		return fmt.Errorf("no Redis answers at %s: %w", job.Addr, err)
	}
	defer client.Del(context.WithoutCancel(ctx), job.Counter)

	result, err := supervise(ctx, job, procs, stderr)
	if err != nil {
		return err
	}
	result.counted, err = client.Get(ctx, job.Counter).Int()
	if err != nil {
		return fmt.Errorf("reading the counter: %w", err)
	}
	result.write(stdout)
	if result.counted != result.expected {
		return errLost
	}
	return nil
}
