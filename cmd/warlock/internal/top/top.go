// Package top shows the locks of a Redis live on a terminal.
package top

import (
	"context"
	"errors"
	"io"
	"time"

	tea "charm.land/bubbletea/v2"
	"github.com/redis/go-redis/v9"

	"github.com/warlock-go/warlock"
	"github.com/warlock-go/warlock/cmd/warlock/internal/board"
)

// Options say what Run shows, and where.
type Options struct {
	Client  redis.UniversalClient
	Pattern string        // of keys; empty: all locks
	Every   time.Duration // between two looks
	In      io.Reader     // a terminal
	Out     io.Writer     // the same terminal
	Env     []string      // as of os.Environ: TERM, NO_COLOR
}

// longestInspect is for how long a look at one lock may take.
const longestInspect = 5 * time.Second

// Run shows the locks until the user quits. Then it returns nil. When ctx ends, it
// returns the cause. In both cases the terminal is as before.
func Run(ctx context.Context, o Options) error {
	looking, stop := context.WithCancel(ctx)
	defer stop()
	m := model{every: o.Every, pattern: o.Pattern}
	m.inspect = func(key string) (warlock.Status, error) {
		ctx, cancel := context.WithTimeout(looking, longestInspect)
		defer cancel()
		return warlock.Inspect(ctx, o.Client, key)
	}
	p := tea.NewProgram(m, tea.WithContext(ctx), tea.WithInput(o.In), tea.WithOutput(o.Out),
		tea.WithEnvironment(o.Env), tea.WithoutSignalHandler())
	b := &board.Board{Client: o.Client, Pattern: o.Pattern, Every: o.Every}
	// The board is not waited for: a server that hangs may hold it up for seconds.
	go b.Run(looking, func(s board.Snapshot) { p.Send(s) })
	_, err := p.Run()
	if errors.Is(err, tea.ErrProgramKilled) && ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return err
}
