// Counter shows what the lock is for: several processes each read a counter in
// Redis, add one, and write it back, many times over. Under the lock no update
// is lost. With -unlocked most updates are lost.
//
// It starts a Redis of its own (miniredis, in the first process), or uses the
// one that -redis names. Its exit status is 1 if an update was lost, and 2 if
// it could not do its work.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/url"
	"os"
	"os/signal"
	"strconv"
	"strings"
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
		os.Exit(2) // the user who interrupted it knows why
	default:
		fmt.Fprintln(os.Stderr, "counter:", err)
		os.Exit(2)
	}
}

// run does the work of the first process, or of a worker if the environment has
// a job.
func run(ctx context.Context, args []string, stdout, stderr io.Writer) error {
	if job, ok := jobOfWorker(); ok {
		signal.Ignore(os.Interrupt) // the first process gets it too, and ends this one
		return work(ctx, job, os.Stdin, stdout)
	}
	var job job
	flags := flag.NewFlagSet("counter", flag.ExitOnError)
	procs := flags.Int("procs", 4, "how many processes count")
	flags.IntVar(&job.Increments, "n", 250, "how often each of them adds one")
	flags.StringVar(&job.Redis, "redis", "", "`host:port` or URL (redis://user:password@host:port/0)"+
		" of a Redis to use (default: the program starts one)")
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

	if job.Redis == "" {
		server, err := miniredis.Run()
		if err != nil {
			return fmt.Errorf("starting a Redis: %w", err)
		}
		defer server.Close()
		defer keepTime(server)()
		job.Redis = server.Addr()
	}
	job.Counter = "counter:" + uuid.NewString()
	return count(ctx, job, *procs, stdout, stderr)
}

// keepTime lets time pass in server until stop is called, since a miniredis
// does not do so by itself. So the lock of a worker that dies runs out.
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

// connection returns the options of a client of the Redis that -redis names.
// Its errors do not repeat a URL, in which there may be a password.
func connection(name string) (*redis.Options, error) {
	if !strings.Contains(name, "://") {
		_, port, err := net.SplitHostPort(name)
		if err != nil {
			return nil, fmt.Errorf("-redis is %q: give host:port or a URL such as redis://host:port/0", name)
		}
		if _, err := strconv.ParseUint(port, 10, 16); err != nil {
			return nil, fmt.Errorf("-redis is %q: its port %q is no number from 0 to 65535", name, port)
		}
		return &redis.Options{Addr: name}, nil
	}
	options, err := redis.ParseURL(name)
	if parse, ok := errors.AsType[*url.Error](err); ok {
		err = parse.Err
	}
	if err != nil {
		return nil, fmt.Errorf("-redis is a URL that cannot be used: %w: "+
			"give one such as redis://user:password@host:port/0", err)
	}
	return options, nil
}

// count lets the workers count, and writes the result to stdout.
func count(ctx context.Context, job job, procs int, stdout, stderr io.Writer) error {
	options, err := connection(job.Redis)
	if err != nil {
		return err
	}
	client := redis.NewClient(options)
	defer client.Close()
	if err := client.Ping(ctx).Err(); err != nil {
		return fmt.Errorf("no Redis answers at %s: %w", options.Addr, err)
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
