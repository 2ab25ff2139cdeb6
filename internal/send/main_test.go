package send_test

import (
	"os"
	"testing"

	"github.com/redis/go-redis/v9/logging"
)

func TestMain(m *testing.M) {
	logging.Disable() // go-redis's: clients are broken on purpose
	os.Exit(m.Run())
}
