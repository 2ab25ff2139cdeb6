package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/redis/go-redis/v9"
)

// voters are the independent servers of a quorum.
type voters []*server

// startVoters starts so many servers. It also returns an error with the servers
// that it has started.
func startVoters(n int) (v voters, err error) {
	for range n {
		s, err := startServer()
		if err != nil {
			return v, err
		}
		v = append(v, s)
	}
	return v, nil
}

// addrs returns the addresses of the servers.
func (v voters) addrs() (addrs []string) {
	for _, s := range v {
		addrs = append(addrs, s.addr)
	}
	return addrs
}

// A server that has just started does not vote until the ttl is over. Redis tells
// its age in whole seconds, so warlock may wait up to voteGrace longer.
const voteGrace = 2 * time.Second

// await waits until all servers vote in the quorums of warlock.
func (v voters) await(ttl time.Duration) {
	for _, s := range v {
		<-time.After(time.Until(s.ready.Add(ttl + voteGrace)))
	}
}

// memory is the key in which a server notes since when it has forgotten no lock.
// A server without it does not vote until the ttl is over.
const memory = "warlock:quorum:memory"

// tidy removes all keys except the memory of each server.
func (v voters) tidy() error {
	for _, s := range v {
		if err := s.tidy(); err != nil {
			return err
		}
	}
	return nil
}

func (s *server) tidy() error {
	admin := redis.NewClient(&redis.Options{Addr: s.addr})
	defer admin.Close()
	keys, err := admin.Keys(context.Background(), "*").Result()
	for _, key := range keys {
		if err == nil && key != memory {
			err = admin.Del(context.Background(), key).Err()
		}
	}
	return err
}

func (v voters) stop() (err error) {
	for _, s := range v {
		err = errors.Join(err, s.stop())
	}
	return err
}

// thawGrace is longer than the pauses after which warlock pays a server what it
// owes it.
const thawGrace = time.Second

// thaw lets a stopped server go on. It returns when the server has caught up.
func (s *server) thaw() error {
	if err := goOn(s.proc.Process); err != nil {
		return err
	}
	if err := s.awaitAnswer(); err != nil {
		return fmt.Errorf("a server that was stopped: %w", err)
	}
	<-time.After(thawGrace)
	return nil
}
