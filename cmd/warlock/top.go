package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/warlock-go/warlock/cmd/warlock/internal/board"
	"github.com/warlock-go/warlock/cmd/warlock/internal/top"
)

// A topCommand has the values of the flags of top.
type topCommand struct {
	*settings
	every time.Duration
	json  bool
}

// leastEvery is the shortest pause between two looks.
const leastEvery = 100 * time.Millisecond

func newTop(s *settings) *cobra.Command {
	c := &topCommand{settings: s}
	cmd := &cobra.Command{
		Use:   "top [PATTERN]",
		Short: "Show the busiest locks, their holders and queues, live",
		Long: `top shows the locks that are held or waited for, those with the most waiters first,
and goes on until q is pressed. Enter opens a lock: its holders and its queue.
PATTERN is one of Redis for keys, such as "invoice:*".`,
		Example: `  warlock top
  warlock top 'invoice:*' --every 5s
  warlock top --json`,
		Args:              cobra.MaximumNArgs(1),
		ValidArgsFunction: completeKeys(s),
		RunE:              c.run,
	}
	cmd.Flags().DurationVar(&c.every, "every", time.Second, "look again after `DURATION`")
	cmd.Flags().BoolVar(&c.json, "json", false, "print a JSON object a line at each look")
	return cmd
}

func (c *topCommand) run(cmd *cobra.Command, args []string) error {
	pattern := ""
	if len(args) > 0 {
		pattern = args[0]
	}
	if c.every < leastEvery {
		err := fmt.Errorf("--every %v is too short: use %v or more", c.every, leastEvery)
		return &exit{status: exitUsage, err: err}
	}
	if !c.json && !canDraw(cmd) {
		err := errors.New(`top needs a terminal: use "warlock ls", or --json`)
		return &exit{status: exitUsage, err: err}
	}
	client, err := c.client()
	if err != nil {
		return err
	}
	defer client.Close()
	if c.json {
		b := &board.Board{Client: client, Pattern: pattern, Every: c.every}
		return c.print(cmd, b)
	}
	ctx, stop := untilSignal(cmd.Context())
	defer stop()
	return top.Run(ctx, top.Options{
		Client: client, Pattern: pattern, Every: c.every,
		In: cmd.InOrStdin(), Out: cmd.OutOrStdout(), Env: os.Environ(),
	})
}

// canDraw reports whether cmd has a terminal that does more than print lines.
func canDraw(cmd *cobra.Command) bool {
	return isTerminal(cmd.InOrStdin()) && isTerminal(cmd.OutOrStdout()) && os.Getenv("TERM") != "dumb"
}

// isTerminal reports whether an input or output of a command is a terminal.
func isTerminal(stream any) bool {
	f, ok := stream.(*os.File)
	return ok && term.IsTerminal(int(f.Fd()))
}

// untilSignal returns a context that ends with a signal that ends programs. Its cause
// is the exit with the status of that signal.
func untilSignal(ctx context.Context) (context.Context, func()) {
	ctx, cancel := context.WithCancelCause(ctx)
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP)
	go func() {
		select {
		case s := <-signals:
			n, _ := s.(syscall.Signal)
			cancel(&exit{status: exitSignal + int(n)})
		case <-ctx.Done():
		}
	}()
	return ctx, func() {
		signal.Stop(signals)
		cancel(nil)
	}
}

// A lookJSON is a look at the locks as top --json prints it.
type lookJSON struct {
	At    time.Time  `json:"at"`
	Locks []lockJSON `json:"locks"`
	More  int        `json:"more"` // locks beside these
	Error string     `json:"error,omitempty"`
}

// print prints each look. It returns when the context ends, or a line cannot be written.
func (c *topCommand) print(cmd *cobra.Command, b *board.Board) error {
	ctx, cancel := context.WithCancelCause(cmd.Context())
	defer cancel(nil)
	out := json.NewEncoder(cmd.OutOrStdout())
	out.SetEscapeHTML(false)
	b.Run(ctx, func(s board.Snapshot) {
		look := lookJSON{At: s.At, Locks: []lockJSON{}, More: s.More}
		for _, l := range s.Locks {
			look.Locks = append(look.Locks, statusJSON(l.Status))
		}
		if s.Err != nil {
			look.Error = oneLine(s.Err)
		}
		if err := out.Encode(look); err != nil {
			cancel(&exit{status: exitNo, err: err})
		}
	})
	return context.Cause(ctx)
}
