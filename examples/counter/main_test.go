package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/redis/go-redis/v9/logging"

	"github.com/warlock-go/warlock/internal/redistest"
)

func TestMain(m *testing.M) {
	if _, ok := jobOfWorker(); ok {
		if err := run(context.Background(), nil, os.Stdout, os.Stderr); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(2)
		}
		os.Exit(0)
	}
	logging.Disable() // go-redis's own
	os.Exit(m.Run())
}

// counted runs the program and returns what it writes.
func counted(t *testing.T, args ...string) (string, error) {
	t.Helper()
	var out strings.Builder
	err := run(t.Context(), args, &out, io.Discard)
	return out.String(), err
}

func expect(t *testing.T, table string, rows ...string) {
	t.Helper()
	for _, row := range rows {
		if !regexp.MustCompile(`(?m)^` + row + `$`).MatchString(table) {
			t.Errorf("the table has no row like %q:\n%s", row, table)
		}
	}
}

func TestNoUpdateIsLost(t *testing.T) {
	table, err := counted(t, "-procs", "3", "-n", "50")
	if err != nil {
		t.Fatal(err)
	}
	expect(t, table, `expected +150`, `counted +150`, `lost updates +0`,
		`acquisitions/s +\d+`, `wait p50 +[\d.]+.?s`, `wait p99 +[\d.]+.?s`,
		`highest fencing token +\d{16}`)
}

func TestNoUpdateIsLostOnARealServer(t *testing.T) {
	s := redistest.Start(t)
	table, err := counted(t, "-procs", "3", "-n", "50", "-redis", s.Addr)
	if err != nil {
		t.Fatal(err)
	}
	expect(t, table, `counted +150`, `lost updates +0`)
	for _, key := range s.Keys() {
		if s.TTL(key) <= 0 {
			t.Errorf("%s is left for ever", key)
		}
	}
}

// TestURL counts in another database than 0, as a user with a password. The
// default user may only look.
func TestURL(t *testing.T) {
	s := redistest.Start(t)
	s.Do("ACL", "SETUSER", "counter", "on", ">s3cret", "~*", "&*", "+@all")
	s.Do("ACL", "SETUSER", "default", "-@all", "+keys")
	url := "redis://counter:s3cret@" + s.Addr + "/3"
	table, err := counted(t, "-procs", "2", "-n", "20", "-redis", url)
	if err != nil {
		t.Fatal(err)
	}
	expect(t, table, `counted +40`, `lost updates +0`)
	if keys := s.Keys(); len(keys) > 0 {
		t.Errorf("database 0 has the keys %q", keys)
	}
}

func TestUpdatesAreLostWithoutTheLock(t *testing.T) {
	table, err := counted(t, "-procs", "4", "-n", "250", "-unlocked")
	if !errors.Is(err, errLost) {
		t.Fatalf("%v, want lost updates:\n%s", err, table)
	}
	expect(t, table, `expected +1000`, `lost updates +[1-9]\d*`)
}

func TestWrongArguments(t *testing.T) {
	for says, args := range map[string][]string{
		"-procs is 0":                   {"-procs", "0"},
		"-n is -1":                      {"-n", "-1"},
		`unexpected argument "x"`:       {"x"},
		"no Redis answers at 127.0.0.1": {"-redis", fmt.Sprintf("127.0.0.1:%d", redistest.FreePort(t))},
		"no Redis answers at 127.0.0.1:": {"-redis",
			fmt.Sprintf("redis://:s3cret@127.0.0.1:%d", redistest.FreePort(t))},
		`-redis is "localhost": give host:port`: {"-redis", "localhost"},
		`its port "redis" is no number`:         {"-redis", "localhost:redis"},
		`its port "65536" is no number`:         {"-redis", "localhost:65536"},
		"invalid URL scheme: http":              {"-redis", "http://:s3cret@localhost"},
		"invalid port":                          {"-redis", "redis://:s3cret@localhost:x"},
		`invalid database number: "x"`:          {"-redis", "redis://:s3cret@localhost/x"},
	} {
		_, err := counted(t, args...)
		if err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("%q: %v, want %q", args, err, says)
		}
		if err != nil && strings.Contains(err.Error(), "s3cret") {
			t.Errorf("%q: %v shows the password", args, err)
		}
	}
}
