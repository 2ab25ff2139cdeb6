package send

import (
	"context"
	"errors"
	"time"

	"github.com/redis/go-redis/v9"
)

// A ClusterClient looks up which server has which slot once a minute, and when a server names
// another one. A master that is dead, or frozen, names none. So a Sender asks the client to look
// again when a command was not answered, and when it is under way for longer than silence.
const silence = 500 * time.Millisecond

// watch has a client of a cluster look for the servers again if the command that is sent now is
// not answered. The caller calls ends with the outcome. For other clients it does nothing.
func watch(client redis.UniversalClient) (ends func(error)) {
	cluster, ok := client.(*redis.ClusterClient)
	if !ok {
		return func(error) {}
	}
	reload := func() { cluster.ReloadState(context.Background()) }
	timer := time.AfterFunc(silence, reload)
	return func(err error) {
		timer.Stop()
		if Lost(err) && !Broke(err) && !errors.Is(err, context.Canceled) {
			reload()
		}
	}
}
