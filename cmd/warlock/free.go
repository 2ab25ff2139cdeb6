package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"

	"github.com/redis/go-redis/v9"
	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/warlock-go/warlock"
)

func newRelease(s *settings) *cobra.Command {
	return &cobra.Command{
		Use:   "release KEY ID",
		Short: "Free a lock that an ID holds",
		Long: `Free a lock that an ID holds. "warlock show" names the ID, and a command that runs
under the lock has it in WARLOCK_ID. The holder finds that its lease is lost at its next
renewal. The exit status is 1 if the ID does not hold the lock.`,
		ValidArgsFunction: completeKey(s),
		Args:              exactly("a KEY", "an ID"),
		RunE: func(cmd *cobra.Command, args []string) error {
			client, err := s.client()
			if err != nil {
				return err
			}
			defer client.Close()
			return failed(warlock.Release(cmd.Context(), client, args[0], args[1]))
		},
	}
}

func newBreak(s *settings) *cobra.Command {
	var yes bool
	cmd := &cobra.Command{
		Use:   "break KEY",
		Short: "Take a lock away from its holders",
		Long: `Take a lock away from its holders. The command shows them and asks first. A holder
that lives finds out at its next renewal, and works without the lock until then. The
exit status is 1 if nobody holds the lock, or if the answer is no.`,
		ValidArgsFunction: completeKey(s),
		Args:              exactly("a KEY"),
		RunE: func(cmd *cobra.Command, args []string) error {
			client, err := s.client()
			if err != nil {
				return err
			}
			defer client.Close()
			return breakLock(cmd, client, args[0], yes)
		},
	}
	cmd.Flags().BoolVar(&yes, "yes", false, "do not ask")
	return cmd
}

// breakLock frees the lock of key from the holders that it has shown. A holder that
// comes later keeps it.
func breakLock(
	cmd *cobra.Command, client redis.UniversalClient, key string, yes bool,
) error {
	status, err := warlock.Inspect(cmd.Context(), client, key)
	switch {
	case err != nil:
		return failed(err)
	case len(status.Holders) == 0:
		return &exit{status: exitNo, err: fmt.Errorf("lock %s: nobody holds it", strconv.Quote(key))}
	}
	if !yes {
		if err := ask(cmd, status); err != nil {
			return err
		}
	}
	if err := releaseAll(cmd, client, status); err != nil {
		return failed(err)
	}
	if status.MoreHolders > 0 {
		return &exit{status: exitNo, err: fmt.Errorf("lock %s: %d more hold it: break it again",
			strconv.Quote(key), status.MoreHolders)}
	}
	return nil
}

// longestID is how much of an ID warlock.Inspect tells (bytes).
const longestID = 4096

// releaseAll frees the lock from the holders in status.
func releaseAll(
	cmd *cobra.Command, client redis.UniversalClient, status warlock.Status,
) error {
	for _, h := range status.Holders {
		err := warlock.Release(cmd.Context(), client, status.Key, h.ID)
		switch {
		case err == nil:
			fmt.Fprintf(cmd.OutOrStdout(), "%s: taken from %s\n", plain(status.Key), who(h.Owner, h.ID))
		case errors.Is(err, warlock.ErrNotHeld) && len(h.ID) >= longestID:
			return fmt.Errorf("lock %s: its holder's ID is too long: free it by DEL: %w",
				strconv.Quote(status.Key), err)
		case errors.Is(err, warlock.ErrNotHeld):
			fmt.Fprintf(cmd.OutOrStdout(), "%s: %s does not hold it any more\n",
				plain(status.Key), who(h.Owner, h.ID))
		default:
			return err
		}
	}
	return nil
}

// ask asks the user whether the lock is to be broken.
func ask(cmd *cobra.Command, status warlock.Status) error {
	in, ok := cmd.InOrStdin().(*os.File)
	if !ok || !term.IsTerminal(int(in.Fd())) {
		return &exit{status: exitUsage, err: fmt.Errorf("lock %s is held by %s: "+
			"there is no terminal to ask on: give --yes to break it",
			strconv.Quote(status.Key), holderText(status.Holders[0]))}
	}
	printStatus(cmd, status)
	fmt.Fprintf(cmd.ErrOrStderr(),
		"\nTake lock %s away from its holders? [y/N] ", strconv.Quote(status.Key))
	answers := make(chan string, 1)
	go func() { // ends with an answer, or with the program
		line, _ := bufio.NewReader(in).ReadString('\n')
		answers <- line
	}()
	select {
	case answer := <-answers:
		switch strings.ToLower(strings.TrimSpace(answer)) {
		case "y", "yes":
			return nil
		}
		return &exit{status: exitNo}
	case <-cmd.Context().Done():
		return context.Cause(cmd.Context())
	}
}
