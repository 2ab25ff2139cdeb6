package main

import (
	"context"
	"crypto/tls"
	"net"

	"github.com/redis/rueidis"
	"github.com/redis/rueidis/rueidislock"
)

type rueidisClient struct{ rueidislock.Locker }

func connectRueidis(s setup) (client, error) {
	dial := func(
		ctx context.Context, addr string, _ *net.Dialer, _ *tls.Config,
	) (net.Conn, error) {
		return s.dial(ctx, "tcp", addr)
	}
	l, err := rueidislock.NewLocker(rueidislock.LockerOption{
		ClientOption: rueidis.ClientOption{
			InitAddress: []string{s.addr},
			DialCtxFn:   dial,
		},
		KeyValidity:    s.ttl,
		ExtendInterval: s.ttl / 3,
		KeyMajority:    1,
		NoLoopTracking: true,
	})
	if err != nil {
		return nil, err
	}
	return rueidisClient{l}, nil
}

func (c rueidisClient) locker(key string) locker { return &rueidisLock{locker: c, key: key} }

func (c rueidisClient) close() error {
	c.Close()
	return nil
}

type rueidisLock struct {
	locker rueidislock.Locker
	key    string
	cancel context.CancelFunc
}

func (l *rueidisLock) lock(ctx context.Context) error {
	_, cancel, err := l.locker.WithContext(ctx, l.key)
	l.cancel = cancel
	return err
}

func (l *rueidisLock) unlock() error {
	l.cancel()
	return nil
}

func (l *rueidisLock) renew(context.Context) error { return nil }
