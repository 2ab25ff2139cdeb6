package main

import (
	"fmt"
	"os"
	"slices"

	"github.com/warlock-go/warlock/internal/redistest"
)

// A ground is what servers stand on where there is no test: they stop with it.
type ground struct {
	dir      string
	cleanups []func()
}

var _ redistest.TB = (*ground)(nil)

// A failure ends a run that cannot go on. It is no violation: the stage broke, not the lock.
type failure struct{ error }

func newGround() (*ground, error) {
	dir, err := os.MkdirTemp("", "warlock-chaos-")
	return &ground{dir: dir}, err
}

func (g *ground) Helper()          {}
func (g *ground) Cleanup(f func()) { g.cleanups = append(g.cleanups, f) }

func (g *ground) TempDir() string {
	dir, err := os.MkdirTemp(g.dir, "")
	if err != nil {
		g.Fatal(err)
	}
	return dir
}

func (g *ground) Fatal(args ...any)                 { panic(failure{fmt.Errorf("%s", fmt.Sprint(args...))}) }
func (g *ground) Fatalf(format string, args ...any) { panic(failure{fmt.Errorf(format, args...)}) }
func (g *ground) Skip(args ...any)                  { g.Fatal(args...) }
func (g *ground) Skipf(format string, args ...any)  { g.Fatalf(format, args...) }

// must ends the run if there is an error.
func (g *ground) must(err error) {
	if err != nil {
		panic(failure{err})
	}
}

// clean stops all that stands on the ground, the last first.
func (g *ground) clean() {
	for _, f := range slices.Backward(g.cleanups) {
		f()
	}
	_ = os.RemoveAll(g.dir) // in the system's folder for what may be removed
}

// guarded runs f, and returns the failure that ended it.
func guarded(f func()) (err error) {
	defer func() {
		switch r := recover().(type) {
		case nil:
		case failure:
			err = r.error
		default:
			panic(r)
		}
	}()
	f()
	return nil
}
