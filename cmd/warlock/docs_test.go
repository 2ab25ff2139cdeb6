package main

import (
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// The page names each command and each flag, and no other.
func TestPageNamesAllCommandsAndFlags(t *testing.T) {
	text, err := os.ReadFile("../../docs/cli.md")
	if err != nil {
		t.Fatal(err)
	}
	page := string(text)
	known := map[string]bool{"all": true} // of the command that an example runs
	var learn func(cmd *cobra.Command)
	learn = func(cmd *cobra.Command) {
		note := func(f *pflag.Flag) {
			known[f.Name] = true
			if !strings.Contains(page, "--"+f.Name) && !f.Hidden {
				t.Errorf("the page does not name --%s", f.Name)
			}
		}
		cmd.Flags().VisitAll(note)
		cmd.PersistentFlags().VisitAll(note)
		for _, sub := range cmd.Commands() {
			if name := sub.Name(); !strings.Contains(page, "warlock "+name) {
				t.Errorf("the page does not name warlock %s", name)
			}
			learn(sub)
		}
	}
	learn(newRoot())
	for _, m := range regexp.MustCompile(`--([a-z][a-z-]*)`).FindAllStringSubmatch(page, -1) {
		if !known[m[1]] {
			t.Errorf("the page names --%s, which no command has", m[1])
		}
	}
}
