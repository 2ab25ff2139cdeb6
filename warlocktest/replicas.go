package warlocktest

import (
	"strconv"

	"github.com/alicebob/miniredis/v2/server"

	"github.com/warlock-go/warlock/internal/bubble"
)

// startServer starts a server that answers WAIT as if it had as many replicas as it is
// asked for, and they had everything. (A miniredis says that it has none.)
func startServer() *bubble.Redis {
	s := bubble.Start()
	s.Mini.Server().SetPreHook(func(c *server.Peer, cmd string, args ...string) bool {
		if cmd != "WAIT" || len(args) == 0 {
			return false
		}
		replicas, err := strconv.Atoi(args[0])
		if err != nil {
			return false
		}
		c.WriteInt(replicas)
		return true
	})
	return s
}
