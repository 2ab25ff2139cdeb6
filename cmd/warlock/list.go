package main

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/warlock-go/warlock"
)

func newList(s *settings) *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "ls [PATTERN]",
		Short: "List the locks that are held or waited for",
		Long: `List the locks that are held or waited for, in the order of their keys. The pattern
is one of Redis, such as "invoice:*". A lock that was taken by SET NX is listed only
while a lock of this library waits for it.`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return s.list(cmd, strings.Join(args, ""), asJSON)
		},
	}
	jsonFlag(cmd, &asJSON)
	return cmd
}

func jsonFlag(cmd *cobra.Command, asJSON *bool) {
	cmd.Flags().BoolVar(asJSON, "json", false, "print a JSON object a line")
}

func (s *settings) list(cmd *cobra.Command, pattern string, asJSON bool) error {
	client, err := s.client()
	if err != nil {
		return err
	}
	defer client.Close()
	var all []warlock.Status
	var failure error
	for status, err := range warlock.List(cmd.Context(), client, pattern) {
		if err != nil { // of one lock, or the last
			failure = err
			continue
		}
		all = append(all, status)
	}
	slices.SortFunc(all, func(a, b warlock.Status) int { return strings.Compare(a.Key, b.Key) })
	if asJSON {
		for _, status := range all {
			if err := printJSON(cmd, status); err != nil {
				return err
			}
		}
	} else if len(all) > 0 {
		printTable(cmd, all)
	}
	return failed(failure)
}

func printJSON(cmd *cobra.Command, s warlock.Status) error {
	encoder := json.NewEncoder(cmd.OutOrStdout())
	encoder.SetEscapeHTML(false)
	if err := encoder.Encode(statusJSON(s)); err != nil {
		return &exit{status: exitOutput, err: err}
	}
	return nil
}

func printTable(cmd *cobra.Command, all []warlock.Status) {
	w := tabwriter.NewWriter(cmd.OutOrStdout(), 0, 0, 2, ' ', 0)
	defer w.Flush()
	fmt.Fprintln(w, "KEY\tMODE\tHOLDER\tLEASE\tWAITING")
	for _, s := range all {
		holder, lease := "-", "-"
		if len(s.Holders) > 0 {
			h := s.Holders[0]
			holder, lease = who(h.Owner, h.ID), lasts(h.Remaining)
			if more := len(s.Holders) + s.MoreHolders - 1; more > 0 {
				holder += fmt.Sprintf(" and %d more", more)
			}
		}
		waiting := len(s.Waiting) + s.MoreWaiting
		fmt.Fprintf(w, "%s\t%v\t%s\t%s\t%d\n", plain(s.Key), s.Mode, holder, lease, waiting)
	}
}
