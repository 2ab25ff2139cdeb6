package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/warlock-go/warlock"
	"github.com/warlock-go/warlock/cmd/warlock/internal/job"
)

// A runner is the command run.
type runner struct {
	*settings
	ttl       time.Duration
	wait      time.Duration
	try       bool
	shared    bool
	killAfter time.Duration
	minHold   time.Duration
	owner     string
	quiet     bool
}

func newRun(s *settings) *cobra.Command {
	r := &runner{settings: s}
	cmd := &cobra.Command{
		Use:   "run [flags] KEY [KEY...] -- COMMAND [ARG...]",
		Short: "Run a command while it holds locks",
		Long:  runLong,
		Example: `  warlock run invoices -- ./send-invoices
  warlock run --quiet --try --min-hold 50s nightly-report -- ./report   # one machine of many
  warlock run --wait 10m deploy:api -- make deploy`,
		RunE:              r.run,
		ValidArgsFunction: completeKeys(s),
	}
	f := cmd.Flags()
	f.DurationVar(&r.ttl, "ttl", 10*time.Second,
		"how long the locks stay taken after this machine has died")
	f.DurationVar(&r.wait, "wait", 0,
		"wait so long for the locks at most (default: as long as it takes)")
	f.BoolVar(&r.try, "try", false, "do not wait")
	f.BoolVar(&r.shared, "shared", false, "hold the locks beside others that also hold them --shared")
	f.DurationVar(&r.killAfter, "kill-after", 10*time.Second,
		"if a lock is lost: the time between TERM and KILL, if the lease still lives for so long")
	f.DurationVar(&r.minHold, "min-hold", 0,
		"leave the locks taken until so long after they were acquired")
	f.StringVar(&r.owner, "owner", "",
		"a `NAME` for people to see who holds the locks (default host/pid)")
	f.BoolVarP(&r.quiet, "quiet", "q", false, "say nothing if a lock is taken")
	cmd.MarkFlagsMutuallyExclusive("wait", "try")
	f.Lookup("wait").DefValue, f.Lookup("min-hold").DefValue = "0", "0" // pflag does not print this
	return cmd
}

const runLong = `Run a command while it holds one or more locks. Others that want one of the locks
wait, or do not run. The locks are taken in one order by all.

The command gets WARLOCK_KEY, WARLOCK_ID and WARLOCK_FENCE in its environment: the
locks' keys, the leases' IDs and their fencing tokens, a line for each key.

The exit status is that of the command, or 128 + n if signal n killed it. Signals
reach all of the command's process group.

If Redis cannot be reached, the command gets TERM, and then KILL, before the leases run
out: nobody else has the locks until then. If somebody takes a lock away, the command
gets both when the next renewal finds that, within a third of the ttl.`

func (r *runner) run(cmd *cobra.Command, args []string) error {
	keys, command, err := split(args, cmd.ArgsLenAtDash())
	if err == nil {
		err = r.check(cmd)
	}
	if err != nil {
		return &exit{status: exitUsage, err: err}
	}
	program, err := exec.LookPath(command[0])
	if err != nil {
		return notStarted(command[0], err)
	}
	client, err := r.client()
	if err != nil {
		return err
	}
	defer client.Close()
	set, err := r.locks(cmd, client, keys)
	if err != nil {
		return &exit{status: exitUsage, err: err}
	}

	signals := make(chan os.Signal, 16)
	notify(signals, job.Signals)
	defer signal.Stop(signals)
	if err := r.acquire(cmd.Context(), set, signals); err != nil {
		return err
	}
	outcome, err := job.Run(job.Command{
		Path: program, Args: command, Env: append(os.Environ(), set.environment()...),
		Files: [3]*os.File{os.Stdin, os.Stdout, os.Stderr}, Grace: r.killAfter,
	}, set.lease(r.ttl), signals)
	lost, unlockErr := r.release(set, signals)
	if err != nil {
		return notStarted(command[0], err)
	}
	if unlockErr != nil && lost == nil {
		fmt.Fprintln(cmd.ErrOrStderr(), "warlock:", oneLine(unlockErr))
	}
	return result(set, outcome, lost)
}

// result returns the exit after a command that has run under set. lost says that a lease
// was lost meanwhile.
func result(set *set, o job.Outcome, lost error) error {
	if lost == nil && o.Overtime {
		lost = fmt.Errorf("lock %s: the lease was about to run out, as Redis could not be reached: "+
			"the command was told to end", set.names())
	}
	if lost != nil {
		return &exit{status: exitLost, err: lost}
	}
	if o.Status == 0 {
		return nil
	}
	return &exit{status: o.Status, interrupted: o.Interrupted}
}

// split returns the keys and the command, whose first word is argument number dash.
func split(args []string, dash int) (keys, command []string, err error) {
	const form = `use "warlock run KEY -- COMMAND"`
	switch {
	case dash < 0:
		return nil, nil, fmt.Errorf("there is no -- before the command: %s", form)
	case dash == 0:
		return nil, nil, fmt.Errorf("no key is given: %s", form)
	case dash == len(args):
		return nil, nil, fmt.Errorf("no command is given: %s", form)
	}
	return args[:dash], args[dash:], nil
}

// check returns an error about a flag that cannot be used.
func (r *runner) check(cmd *cobra.Command) error {
	if err := checkOwner(r.owner); err != nil {
		return err
	}
	for name, d := range map[string]time.Duration{
		"wait": r.wait, "kill-after": r.killAfter, "min-hold": r.minHold,
	} {
		if d < 0 {
			return fmt.Errorf("--%s %v: a negative time", name, d)
		}
	}
	if cmd.Flags().Changed("wait") && r.wait == 0 {
		r.try = true
	}
	return nil
}

// checkOwner returns an error that names the flag if the library does not take owner.
func checkOwner(owner string) (err error) {
	defer func() {
		if recover() != nil {
			err = fmt.Errorf("--owner %.80q: use at most 64 printable ASCII characters", owner)
		}
	}()
	warlock.WithOwner(owner)
	return nil
}

// options returns the options of the locks.
func (r *runner) options(cmd *cobra.Command) []warlock.Option {
	log := r.logger(cmd)
	opts := []warlock.Option{warlock.WithLogger(log)}
	if r.log {
		opts = append(opts, warlock.WithObserver(recorder{log}))
	}
	if r.wait > 0 {
		opts = append(opts, warlock.WithMaxWait(r.wait))
	}
	if r.minHold > 0 {
		opts = append(opts, warlock.WithMinHold(r.minHold))
	}
	if r.owner != "" {
		opts = append(opts, warlock.WithOwner(r.owner))
	}
	return opts
}

// notStarted returns the exit for a command that cannot be started, as shells have it.
func notStarted(name string, err error) error {
	status := 126
	if errors.Is(err, exec.ErrNotFound) || errors.Is(err, os.ErrNotExist) {
		status = 127
	}
	var of *exec.Error
	if errors.As(err, &of) {
		err = of.Err
	}
	return &exit{status: status, err: fmt.Errorf("%s: the command cannot be started: %w", name, err)}
}

// notify has signals notified to c, but for those that this process was started to
// ignore: the command is to ignore them as well. Go tells that of HUP and INT alone.
func notify(c chan os.Signal, signals []os.Signal) {
	for _, s := range signals {
		if !signal.Ignored(s) {
			signal.Notify(c, s)
		}
	}
}

// acquire locks all of set, or none. A signal ends the wait.
func (r *runner) acquire(ctx context.Context, set *set, signals chan os.Signal) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	done := make(chan error, 1)
	go func() { done <- set.lock(ctx, r.wait, r.try) }()
	for {
		select {
		case err := <-done:
			return r.silenced(failed(err))
		case s := <-signals:
			if !job.Ends(s) {
				continue
			}
			cancel()
			if err := <-done; err == nil { // it came too late
				_, _ = set.unlock()
			}
			return &exit{status: exitSignal + int(s.(syscall.Signal))}
		}
	}
}

// silenced returns err without its text, if it says that a lock is taken and the user
// does not want to hear of that.
func (r *runner) silenced(err error) error {
	var e *exit
	if r.quiet && errors.As(err, &e) && e.status == exitTimeout {
		return &exit{status: exitTimeout}
	}
	return err
}

// release unlocks set. After a signal that ends programs, it waits for Redis for no more
// than a second.
func (r *runner) release(set *set, signals chan os.Signal) (lost, err error) {
	type answer struct{ lost, err error }
	done, names := make(chan answer, 1), set.names()
	go func() {
		lost, err := set.unlock()
		done <- answer{lost, err}
	}()
	var late <-chan time.Time
	for {
		select {
		case a := <-done:
			return a.lost, a.err
		case s := <-signals:
			if job.Ends(s) && late == nil {
				late = time.After(time.Second)
			}
		case <-late:
			return nil, fmt.Errorf("lock %s: Redis did not confirm that it is free: "+
				"it stays taken for %v at most", names, r.ttl)
		}
	}
}

// names returns the keys of set, for people.
func (s *set) names() string {
	names := make([]string, len(s.keys))
	for i, key := range s.keys {
		names[i] = strconv.Quote(key)
	}
	return strings.Join(names, ", ")
}

// environment returns what the command learns of its locks.
func (s *set) environment() []string {
	ids, fences := make([]string, len(s.keys)), make([]string, len(s.keys))
	for i, key := range s.keys {
		l := s.leases[key]
		ids[i], fences[i] = l.ID(), strconv.FormatInt(l.Fence(), 10)
	}
	return []string{
		"WARLOCK_KEY=" + strings.Join(s.keys, "\n"),
		"WARLOCK_ID=" + strings.Join(ids, "\n"),
		"WARLOCK_FENCE=" + strings.Join(fences, "\n"),
	}
}

// unique returns values without repetitions, in their order.
func unique(values []string) (all []string) {
	for _, v := range values {
		if !slices.Contains(all, v) {
			all = append(all, v)
		}
	}
	return all
}
