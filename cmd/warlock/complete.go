package main

import (
	"context"
	"os"
	"slices"
	"strings"
	"time"
	"unicode"

	"github.com/spf13/cobra"

	"github.com/warlock-go/warlock"
)

// How many keys a shell is offered, and for how long they are looked for.
const (
	mostOffered    = 100
	longestOffered = time.Second
)

// completeKeys returns a function that completes the keys of locks. It offers nothing
// if Redis has none, or is away. Behind -- it leaves words to the shell, as they are
// of another command.
func completeKeys(s *settings) cobra.CompletionFunc {
	return func(
		cmd *cobra.Command, args []string, begun string,
	) ([]cobra.Completion, cobra.ShellCompDirective) {
		if isBehindDashes(cmd, args) {
			return nil, cobra.ShellCompDirectiveDefault
		}
		client, err := s.client()
		if err != nil {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		defer client.Close()
		ctx, cancel := context.WithTimeout(cmd.Context(), longestOffered)
		defer cancel()
		var keys []string
		for status, err := range warlock.List(ctx, client, escapeGlob(begun)+"*") {
			if err == nil && offered(status.Key, args) {
				keys = append(keys, status.Key)
			}
			if len(keys) == mostOffered {
				break
			}
		}
		slices.Sort(keys)
		return keys, cobra.ShellCompDirectiveNoFileComp
	}
}

// completeKey is completeKeys for a command that takes one key, as its first argument.
func completeKey(s *settings) cobra.CompletionFunc {
	keys := completeKeys(s)
	return func(
		cmd *cobra.Command, args []string, begun string,
	) ([]cobra.Completion, cobra.ShellCompDirective) {
		if len(args) > 0 {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		return keys(cmd, args, begun)
	}
}

// isBehindDashes reports whether a word behind -- is completed. While words are
// completed, cobra tells of a -- of its own behind the last of args.
func isBehindDashes(cmd *cobra.Command, args []string) bool {
	return cmd.ArgsLenAtDash() < len(args) || slices.Contains(os.Args, "--")
}

// offered reports whether a shell is offered key. It is not if args have it already, or
// if a shell or a terminal may take it for something else.
func offered(key string, args []string) bool {
	odd := func(r rune) bool { return !unicode.IsPrint(r) || r == unicode.ReplacementChar }
	return !slices.Contains(args, key) && !strings.ContainsFunc(key, odd) &&
		!strings.HasPrefix(key, "-") && !strings.HasPrefix(key, "_activeHelp_")
}

// escapeGlob returns a pattern of Redis that matches text alone.
func escapeGlob(text string) string {
	return strings.NewReplacer(`\`, `\\`, "*", `\*`, "?", `\?`, "[", `\[`, "]", `\]`).Replace(text)
}

// completeFlags lets flags that name a file complete files, and others nothing, unless
// they have a function of their own.
func completeFlags(root *cobra.Command) {
	root.CompletionOptions.SetDefaultShellCompDirective(cobra.ShellCompDirectiveNoFileComp)
	files := cobra.FixedCompletions(nil, cobra.ShellCompDirectiveDefault)
	for _, name := range []string{"user-file", "password-file"} {
		if err := root.RegisterFlagCompletionFunc(name, files); err != nil {
			panic(err) // root has no such flag
		}
	}
}
