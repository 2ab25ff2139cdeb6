package main

import (
	"github.com/spf13/cobra"

	"github.com/warlock-go/warlock"
)

func newList(s *settings) *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "ls [PATTERN]",
		Short: "List the locks that are held or waited for",
		Args:  cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			pattern := ""
			if len(args) > 0 {
				pattern = args[0]
			}
			return s.list(cmd, pattern, asJSON)
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print a JSON object a line")
	return cmd
}

func (s *settings) list(cmd *cobra.Command, pattern string, asJSON bool) error {
	client, err := s.client()
	if err != nil {
		return err
	}
	defer client.Close()
	for status, err := range warlock.List(cmd.Context(), client, pattern) {
		if err != nil {
			return failed(err)
		}
		cmd.Println(status.Key)
	}
	return nil
}
