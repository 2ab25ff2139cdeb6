//go:build unix

package main

import (
	"slices"
	"strings"
	"testing"
)

func TestHidePasswords(t *testing.T) {
	for arg, want := range map[string]string{
		"redis://:SECRET123@db":                "redis://xxxxxxxxxx@db",
		"--redis=redis://jane:SECRET123@db/1":  "--redis=redis://xxxxxxxxxxxxxx@db/1",
		"rediss://:SECRET123@x/y@a,b?c=d":      "rediss://xxxxxxxxxxxxxx@a,b?c=d",
		"redis://db?master=m&password=SECRET1": "redis://xxxxxxxxxxxxxxxxxxxxxxxxxxxx",
		"redis://db":                           "redis://db",
		"a@b":                                  "a@b",
		"invoice:42":                           "invoice:42",
		"":                                     "",
	} {
		// Strings of the source cannot be written to; those of a process can.
		args := []string{"warlock", strings.Clone(arg), "--", arg}
		kept := hidePasswords(args)
		if !slices.Equal(kept, []string{"warlock", arg, "--", arg}) {
			t.Errorf("kept: %q", kept)
		}
		if !slices.Equal(args, []string{"warlock", want, "--", arg}) {
			t.Errorf("%q is shown as %q", arg, args)
		}
	}
}
