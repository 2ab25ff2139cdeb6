package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"
)

// A server is the benchmark's own redis-server. It listens on loopback and
// keeps nothing on disk.
type server struct {
	addr    string
	version string
	dir     string
	proc    *exec.Cmd
	ready   time.Time // when it first answered
}

// startServer starts a server with these arguments beside its own.
func startServer(args ...string) (*server, error) {
	if _, err := exec.LookPath("redis-server"); err != nil {
		return nil, fmt.Errorf("there is no redis-server in PATH: install it: %w", err)
	}
	port, err := freePort()
	if err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp("", "warlock-bench-")
	if err != nil {
		return nil, err
	}
	s := &server{addr: net.JoinHostPort("127.0.0.1", strconv.Itoa(port)), dir: dir}
	args = append([]string{
		"--bind", "127.0.0.1", "--port", strconv.Itoa(port), "--save", "", "--appendonly", "no",
		"--dir", dir, "--repl-diskless-sync-delay", "0",
	}, args...)
	s.proc = exec.Command("redis-server", args...)
	if err := s.proc.Start(); err != nil {
		return nil, errors.Join(err, os.RemoveAll(dir))
	}
	if err := s.awaitAnswer(); err != nil {
		return nil, errors.Join(err, s.stop())
	}
	s.ready = time.Now()
	return s, nil
}

// awaitAnswer waits until the server answers, and notes its version.
func (s *server) awaitAnswer() error {
	admin := redis.NewClient(&redis.Options{Addr: s.addr})
	defer admin.Close()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	for {
		info, err := admin.Info(ctx, "server").Result()
		if err == nil {
			_, rest, _ := strings.Cut(info, "redis_version:")
			s.version, _, _ = strings.Cut(rest, "\r\n")
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("redis-server did not start: %w", err)
		case <-time.After(10 * time.Millisecond):
		}
	}
}

// flush empties the server between measurements.
func (s *server) flush() error {
	admin := redis.NewClient(&redis.Options{Addr: s.addr})
	defer admin.Close()
	return admin.FlushAll(context.Background()).Err()
}

func (s *server) stop() error {
	err := s.proc.Process.Kill()
	_ = s.proc.Wait() // reports the kill
	return errors.Join(err, os.RemoveAll(s.dir))
}

func freePort() (int, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return 0, err
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port, nil
}
