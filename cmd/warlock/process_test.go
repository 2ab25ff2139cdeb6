package main

import (
	"bytes"
	"context"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9/logging"

	"github.com/warlock-go/warlock"
	"github.com/warlock-go/warlock/internal/redistest"
)

// asWarlock is set for processes of the test binary that are to be warlock.
const asWarlock = "WARLOCK_TEST_AS_WARLOCK"

func init() {
	if os.Getenv(asWarlock) != "" {
		_ = os.Unsetenv(asWarlock)
		main()
	}
	logging.Disable() // go-redis's: servers are killed on purpose
}

// command returns a command that is warlock with args. It is killed when the test
// ends, should it still run.
func command(t *testing.T, args ...string) *exec.Cmd {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), os.Args[0], args...)
	cmd.Env = append(os.Environ(), asWarlock+"=1", "TERM=xterm-256color")
	return cmd
}

// run runs the command line in this process.
func run(ctx context.Context, args ...string) (status int, out, errs string) {
	var o, e bytes.Buffer
	status = execute(ctx, args, strings.NewReader(""), &o, &e)
	return status, o.String(), e.String()
}

// heldBy locks key as owner until the test ends.
func heldBy(t *testing.T, s *redistest.Server, key, owner string) {
	t.Helper()
	m := warlock.NewMutex(s.Client(), key, time.Minute, warlock.WithOwner(owner))
	if err := m.LockContext(t.Context()); err != nil {
		t.Fatal(err)
	}
}

// awaitedBy lets owner wait for key until the test ends.
func awaitedBy(t *testing.T, s *redistest.Server, key, owner string) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	m := warlock.NewMutex(s.Client(), key, time.Minute, warlock.WithOwner(owner))
	go func() {
		defer close(done)
		if m.LockContext(ctx) == nil {
			t.Errorf("%s got %s", owner, key)
		}
	}()
	t.Cleanup(func() {
		cancel()
		<-done
	})
}
