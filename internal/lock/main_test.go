package lock

import (
	"io"
	"log/slog"
	"os"
	"testing"
	"time"

	"github.com/jonboulle/clockwork"
	"github.com/redis/go-redis/v9"
	"github.com/redis/go-redis/v9/logging"
)

func TestMain(m *testing.M) {
	logging.Disable() // go-redis's: clients are broken on purpose
	slog.SetDefault(slog.New(slog.NewTextHandler(io.Discard, nil)))
	os.Exit(m.Run())
}

// newLock returns the lock of "invoice:42" in a process of its own.
func newLock(client redis.UniversalClient, ttl time.Duration, o Options) *Lock {
	l := new(Lock)
	if o.Clock == nil {
		o.Clock = clockwork.NewRealClock()
	}
	l.Init(client, "invoice:42", ttl, o)
	return l
}
