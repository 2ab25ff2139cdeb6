package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/warlock-go/warlock"
)

// The cases of this file run on a master with two replicas on the same machine.

// mostReplicas is how many replicas the master has.
const mostReplicas = 2

// durable are warlock without WithReplicas, and with one and two replicas.
var durable = []system{
	systems[0],
	{name: "warlock, 1 replica", connect: connectWarlock(warlock.WithReplicas(1)), endless: true},
	{name: "warlock, 2 replicas", connect: connectWarlock(warlock.WithReplicas(2)), endless: true},
}

// durableKeyed are a Keyed without WithReplicas, and with one replica.
var durableKeyed = []system{
	keyed,
	{name: "warlock, Keyed, 1 replica", connect: connectKeyed(warlock.WithReplicas(1)), endless: true},
}

// replicated adds the cases in which replicas have each lock.
func (p *planner) replicated() {
	p.turns(replicated, p.rounds, durable, p.onReplicas(load{1, 1, 1}))
	p.turns(replicatedKeys, p.rounds, durableKeyed, p.onReplicas(load{1, hot, hot}))
}

// onReplicas returns a run of a system under l, on a master with replicas of its own.
func (p *planner) onReplicas(l load) func(system) (measurement, error) {
	return func(s system) (m measurement, err error) {
		servers, err := startReplicas()
		defer func() {
			for _, server := range servers {
				err = firstOf(err, server.stop())
			}
		}()
		if err != nil {
			return m, err
		}
		b := *p.bench
		b.server = servers[0]
		return b.contend(s, l, b.window)
	}
}

// startReplicas starts a master and its replicas, and waits until they acknowledge. It
// also returns an error with the servers that it has started.
func startReplicas() (servers []*server, err error) {
	var args []string
	for range 1 + mostReplicas {
		s, err := startServer(args...)
		if err != nil {
			return servers, err
		}
		servers = append(servers, s)
		host, port, err := net.SplitHostPort(servers[0].addr)
		if err != nil {
			return servers, err
		}
		args = []string{"--replicaof", host, port}
	}
	return servers, servers[0].awaitReplicas()
}

// awaitReplicas waits until all replicas acknowledge what s writes.
func (s *server) awaitReplicas() error {
	admin := redis.NewClient(&redis.Options{Addr: s.addr})
	defer admin.Close()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	for {
		pipe := admin.Pipeline() // on one connection
		pipe.Set(ctx, "probe", 1, time.Second)
		acknowledged := pipe.Do(ctx, "WAIT", mostReplicas, 100)
		if _, err := pipe.Exec(ctx); err != nil {
			return errors.Join(fmt.Errorf("the replicas do not come into step: %w", err), ctx.Err())
		}
		if acknowledged.Val() == int64(mostReplicas) {
			return nil
		}
	}
}
