package lock

import (
	"os"
	"strconv"
	"strings"
	"sync"

	"github.com/warlock-go/warlock/internal/protocol"
)

// IsOwner reports whether owner can name a process.
func IsOwner(owner string) bool { return protocol.IsOwner(owner) }

// DefaultOwner returns the name of the host and the number of the process.
var DefaultOwner = sync.OnceValue(func() string {
	host, err := os.Hostname()
	if err != nil {
		host = "unknown"
	}
	pid := "/" + strconv.Itoa(os.Getpid())
	host = strings.Map(func(r rune) rune {
		if r <= ' ' || r > '~' {
			return '-'
		}
		return r
	}, host)
	return host[:min(len(host), protocol.MaxOwner-len(pid))] + pid
})
