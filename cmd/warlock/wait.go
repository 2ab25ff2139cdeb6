package main

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"github.com/warlock-go/warlock"
)

func newWait(s *settings) *cobra.Command {
	var limit time.Duration
	cmd := &cobra.Command{
		Use:   "wait KEY",
		Short: "Wait until a lock is free",
		Long: `Wait until nobody holds a lock and nobody waits for it. The lock is not taken. It is
looked at up to twice a second.`,
		ValidArgsFunction: completeKey(s),
		Args:              exactly("a KEY"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if limit < 0 {
				return &exit{status: exitUsage, err: fmt.Errorf("--wait %v: a negative time", limit)}
			}
			return s.await(cmd, args[0], limit)
		},
	}
	cmd.Flags().DurationVar(&limit, "wait", 0, "wait so long at most (default: as long as it takes)")
	cmd.Flags().Lookup("wait").DefValue = "0" // pflag does not print this
	return cmd
}

// await waits until the lock of key is free.
func (s *settings) await(cmd *cobra.Command, key string, limit time.Duration) error {
	client, err := s.client()
	if err != nil {
		return err
	}
	defer client.Close()
	ctx, log := cmd.Context(), s.logger(cmd)
	if limit > 0 {
		var cancel func()
		ctx, cancel = context.WithTimeout(ctx, limit)
		defer cancel()
	}
	const longest = 500 * time.Millisecond
	last := error(warlock.ErrUnavailable)
	for pause := 20 * time.Millisecond; ; pause = min(2*pause, longest) {
		status, err := warlock.Inspect(ctx, client, key)
		switch {
		case err == nil && status.Mode == warlock.ModeFree && len(status.Waiting) == 0:
			return nil
		case err == nil:
			last = stillHeld(status, limit)
			log.Info("not free", "key", key, "mode", status.Mode, "waiting", len(status.Waiting))
		case ctx.Err() != nil:
			return failed(last)
		case !errors.Is(err, warlock.ErrUnavailable): // no waiting helps
			return failed(err)
		default:
			last = err
			log.Warn("Redis cannot be asked", "key", key, "error", err)
		}
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return failed(last)
		}
	}
}

// stillHeld returns the error of a wait that ends while the lock is not free.
func stillHeld(s warlock.Status, limit time.Duration) error {
	text := "others wait for it"
	if len(s.Holders) > 0 {
		text = "held by " + holderText(s.Holders[0])
	}
	return fmt.Errorf("%w within %v (lock %s): %s",
		warlock.ErrNotAcquired, limit, strconv.Quote(s.Key), text)
}
