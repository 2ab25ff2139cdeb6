package docs_test

import (
	"bytes"
	"context"
	"go/format"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"
)

// A program is a Go program on a page.
type program struct {
	name   string // the page, and the program's number on it, from 1
	source string
	output string // what the comment at its end says that it prints
}

var (
	goBlock    = regexp.MustCompile("(?ms)^```go\n(.*?)^```$")
	outputPart = regexp.MustCompile(`(?ms)^// Output:[ \n](.*)\z`)
)

// programs returns the programs on a page. It fails the test if a block of Go
// is not a whole program, or does not say what it prints.
func programs(t *testing.T, page string) []program {
	t.Helper()
	text, err := os.ReadFile(page)
	if err != nil {
		t.Fatal(err)
	}
	var all []program
	for i, block := range goBlock.FindAllSubmatch(text, -1) {
		p := program{name: filepath.Base(page) + " " + string(rune('1'+i)), source: string(block[1])}
		output := outputPart.FindStringSubmatch(p.source)
		if !strings.HasPrefix(p.source, "package main\n") || output == nil {
			t.Errorf("%s is no program with an Output comment at its end:\n%s", p.name, p.source)
			continue
		}
		p.output = regexp.MustCompile(`(?m)^// ?`).ReplaceAllString(output[1], "")
		all = append(all, p)
	}
	if len(all) == 0 {
		t.Errorf("no program found on %s", page)
	}
	return all
}

// limit is how long a build or a run of a program may take. The first build
// compiles SQLite.
const limit = 4 * time.Minute

// build compiles p for the server at addr and returns the executable's path.
func (p program) build(t *testing.T, addr string) string {
	t.Helper()
	formatted, err := format.Source([]byte(p.source))
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(formatted, []byte(p.source)) {
		t.Errorf("not formatted with gofmt:\n%s", p.source)
	}
	dir := t.TempDir()
	file, binary := filepath.Join(dir, "main.go"), filepath.Join(dir, "program.exe")
	source := strings.ReplaceAll(p.source, "localhost:6379", addr)
	if err := os.WriteFile(file, []byte(source), 0o600); err != nil {
		t.Fatal(err)
	}
	run(t, "go", "vet", file)
	run(t, "go", "build", "-ldflags=-w", "-o", binary, file)
	return binary
}

// run runs a command, and returns what it prints. The test fails if the command
// does.
func run(t *testing.T, command string, args ...string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	cmd := exec.CommandContext(ctx, command, args...)
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%s: %v\n%s", cmd, err, stderr.String())
	}
	return string(out)
}
