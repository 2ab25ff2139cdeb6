// Command warlock runs commands under locks of Redis, and shows who holds a lock and
// who waits for it.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/redis/go-redis/v9/logging"

	"github.com/warlock-go/warlock/cmd/warlock/internal/job"
)

func main() {
	if job.IsGuard() {
		job.Guard()
		return
	}
	args := hidePasswords(os.Args)
	logging.Disable() // go-redis would write to standard error that connections break
	os.Exit(execute(context.Background(), args[1:], os.Stdin, os.Stdout, os.Stderr))
}

// execute runs the command line args, and returns the exit status.
func execute(ctx context.Context, args []string, in io.Reader, out, errs io.Writer) int {
	root := newRoot()
	root.SetArgs(args)
	root.SetIn(in)
	checked := &checkedWriter{Writer: out}
	root.SetOut(checked)
	if isTerminal(out) { // which top draws on
		root.SetOut(out)
	}
	root.SetErr(errs)
	err := root.ExecuteContext(ctx)
	if checked.err != nil {
		err = &exit{status: exitOutput, err: checked.err}
	}
	if err == nil {
		return 0
	}
	var e *exit
	if !errors.As(err, &e) {
		e = &exit{status: exitUsage, err: err} // cobra's own errors are all of usage
	}
	if e.err != nil {
		fmt.Fprintln(errs, "warlock:", oneLine(e.err))
	}
	if e.interrupted {
		job.Interrupt()
	}
	return e.status
}

// A checkedWriter keeps the first error of writing.
type checkedWriter struct {
	io.Writer
	err error
}

func (w *checkedWriter) Write(p []byte) (n int, err error) {
	n, err = w.Writer.Write(p)
	if w.err == nil {
		w.err = err
	}
	return n, err
}

// oneLine returns the text of err in one line, without the name of the program.
func oneLine(err error) string {
	text := strings.Join(strings.FieldsFunc(err.Error(), func(r rune) bool { return r == '\n' }), " ")
	return strings.TrimPrefix(text, "warlock: ")
}
