package main

import (
	"fmt"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/warlock-go/warlock"
	"github.com/warlock-go/warlock/cmd/warlock/internal/span"
)

func newShow(s *settings) *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "show KEY",
		Short: "Show who holds a lock, and who waits for it",
		Long: `Show who holds a lock, and who waits for it, in the order in which they will get it.
The lock may also have been taken by SET NX.`,
		ValidArgsFunction: completeKey(s),
		Args:              exactly("a KEY"),
		RunE: func(cmd *cobra.Command, args []string) error {
			client, err := s.client()
			if err != nil {
				return err
			}
			defer client.Close()
			status, err := warlock.Inspect(cmd.Context(), client, args[0])
			switch {
			case err != nil:
				return failed(err)
			case asJSON:
				return printJSON(cmd, status)
			}
			printStatus(cmd, status)
			return nil
		},
	}
	jsonFlag(cmd, &asJSON)
	return cmd
}

func printStatus(cmd *cobra.Command, s warlock.Status) {
	out := cmd.OutOrStdout()
	fmt.Fprintf(out, "%s: %s", plain(s.Key), modeText(s.Mode))
	if s.Fence != 0 {
		fmt.Fprintf(out, ", fencing token %d", s.Fence)
	}
	fmt.Fprintln(out)
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	defer w.Flush()
	for i, h := range s.Holders {
		if i == 0 {
			fmt.Fprintln(w, "\nHOLDER\tLEASE\tID")
		}
		fmt.Fprintf(w, "%s\t%s\t%s\n", who(h.Owner, h.ID), lasts(h.Remaining), plain(h.ID))
	}
	if s.MoreHolders > 0 {
		fmt.Fprintf(w, "and %d more\n", s.MoreHolders)
	}
	for i, waiter := range s.Waiting {
		if i == 0 {
			fmt.Fprintln(w, "\nWAITER\tFOR\tMODE\tID")
		}
		fmt.Fprintf(w, "%s\t%s\t%v\t%s\n",
			who(waiter.Owner, waiter.ID), span.Text(waiter.For), waiter.Mode, plain(waiter.ID))
	}
	if s.MoreWaiting > 0 {
		fmt.Fprintf(w, "and %d more\n", s.MoreWaiting)
	}
}

// modeText says how a lock is held.
func modeText(m warlock.Mode) string {
	switch m {
	case warlock.ModeRead:
		return "held by readers"
	case warlock.ModeWrite:
		return "held"
	}
	return "free"
}
