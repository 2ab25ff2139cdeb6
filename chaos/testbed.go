package main

import (
	"fmt"
	"os"
	"slices"

	"github.com/warlock-go/warlock/internal/redistest"
)

// A testbed keeps the servers, proxies and workers of one run, and stops them
// at its end. It takes the place of a testing.TB for package redistest.
type testbed struct {
	dir      string
	cleanups []func()
}

var _ redistest.TB = (*testbed)(nil)

// A failure ends a run that cannot go on. It is no violation: the testbed
// broke, not the lock.
type failure struct{ error }

func newTestbed() (*testbed, error) {
	dir, err := os.MkdirTemp("", "warlock-chaos-")
	return &testbed{dir: dir}, err
}

func (t *testbed) Helper()          {}
func (t *testbed) Cleanup(f func()) { t.cleanups = append(t.cleanups, f) }

func (t *testbed) TempDir() string {
	dir, err := os.MkdirTemp(t.dir, "")
	if err != nil {
		t.Fatal(err)
	}
	return dir
}

func (t *testbed) Fatal(args ...any) { panic(failure{fmt.Errorf("%s", fmt.Sprint(args...))}) }

func (t *testbed) Fatalf(format string, args ...any) {
	panic(failure{fmt.Errorf(format, args...)})
}

func (t *testbed) Skip(args ...any)                 { t.Fatal(args...) }
func (t *testbed) Skipf(format string, args ...any) { t.Fatalf(format, args...) }

// must ends the run if there is an error.
func (t *testbed) must(err error) {
	if err != nil {
		panic(failure{err})
	}
}

// stop calls the cleanups, the last one first, and removes the folder.
func (t *testbed) stop() {
	for _, f := range slices.Backward(t.cleanups) {
		f()
	}
	_ = os.RemoveAll(t.dir) // the system empties its folder of temporary files
}

// catch runs f, and returns the failure that ended it, or nil.
func catch(f func()) (err error) {
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
