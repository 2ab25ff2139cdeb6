package connect

import (
	"os"
	"testing"

	"github.com/redis/go-redis/v9/logging"
)

func TestMain(m *testing.M) {
	logging.Disable() // go-redis's: some connections are refused on purpose
	os.Exit(m.Run())
}
