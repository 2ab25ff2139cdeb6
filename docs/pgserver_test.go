package docs_test

import (
	"bytes"
	"cmp"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"syscall"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/warlock-go/warlock/internal/redistest"
)

// A pgServer is a PostgreSQL that ends with its test. It listens on a unix
// socket, and on no port.
type pgServer struct {
	dir       string // of the socket
	databases int    // that database has made
}

// startPostgreSQL starts a PostgreSQL as a user without rights if the test is
// root's. The environment variable WARLOCK_REQUIRE_POSTGRES set to 1 fails a test
// that finds no PostgreSQL. Otherwise the test is skipped.
func startPostgreSQL(t *testing.T) *pgServer {
	t.Helper()
	programs := postgreSQLPrograms(t)
	// The path of a socket has 107 bytes at most, and that of t.TempDir has more.
	dir, err := os.MkdirTemp("", "warlock")
	fatalIf(t, err)
	t.Cleanup(func() { _ = os.RemoveAll(dir) }) // what is left is in a temporary folder
	var log bytes.Buffer
	command := func(name string, args ...string) *exec.Cmd {
		cmd := exec.Command(filepath.Join(programs, name), args...)
		cmd.Dir, cmd.SysProcAttr = dir, unprivileged(t, dir)
		cmd.Stdout, cmd.Stderr = &log, &log
		return cmd
	}
	data := filepath.Join(dir, "data")
	initdb := command("initdb", "-D", data, "-U", "postgres", "-A", "trust",
		"--encoding=UTF8", "--locale=C", "--no-sync")
	if err := initdb.Run(); err != nil {
		t.Fatalf("%s: %v\n%s", initdb, err, &log)
	}
	server := command("postgres", "-D", data, "-k", dir, "-c", "listen_addresses=", "-F")
	fatalIf(t, server.Start())
	t.Cleanup(func() {
		_ = server.Process.Signal(syscall.SIGQUIT) // it may have ended by itself
		_ = server.Wait()                          // how it ended is of no interest
		if t.Failed() {
			t.Logf("the log of PostgreSQL:\n%s", &log)
		}
	})
	s := &pgServer{dir: dir}
	redistest.Eventually(t, func() bool { return s.answers(t) }, "PostgreSQL answers")
	return s
}

// postgreSQLPrograms returns the folder with the programs of the newest PostgreSQL.
// Debian has a folder for each version, and none of them is in PATH.
func postgreSQLPrograms(t *testing.T) string {
	t.Helper()
	found, err := filepath.Glob("/usr/lib/postgresql/*/bin/initdb")
	fatalIf(t, err)
	version := func(initdb string) int {
		n, _ := strconv.Atoi(filepath.Base(filepath.Dir(filepath.Dir(initdb))))
		return n
	}
	if len(found) > 0 {
		return filepath.Dir(slices.MaxFunc(found, func(a, b string) int {
			return cmp.Compare(version(a), version(b))
		}))
	}
	if initdb, err := exec.LookPath("initdb"); err == nil {
		return filepath.Dir(initdb)
	}
	const missing = "there is no initdb in /usr/lib/postgresql/*/bin or in PATH"
	if os.Getenv("WARLOCK_REQUIRE_POSTGRES") == "1" {
		t.Fatal(missing + ", and WARLOCK_REQUIRE_POSTGRES=1")
	}
	t.Skip(missing + ": install PostgreSQL to run this test")
	return ""
}

// address returns how to connect to a database.
func (s *pgServer) address(database string) string {
	return fmt.Sprintf("host=%s user=postgres dbname=%s", s.dir, database)
}

func (s *pgServer) answers(t *testing.T) bool {
	conn, err := pgx.Connect(t.Context(), s.address("postgres"))
	if err != nil {
		return false
	}
	_ = conn.Close(t.Context()) // it has answered
	return true
}

// database makes a database and returns its address.
func (s *pgServer) database(t *testing.T) string {
	t.Helper()
	s.databases++
	name := "billing" + strconv.Itoa(s.databases)
	execute(t, connect(t, s.address("postgres")), "CREATE DATABASE "+name)
	return s.address(name)
}

// connect returns a connection that is closed with the test.
func connect(t *testing.T, address string) *pgx.Conn {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), address)
	fatalIf(t, err)
	t.Cleanup(func() { _ = conn.Close(context.Background()) }) // the server may have closed it
	return conn
}

// execute runs a statement, which must not fail. It returns how many rows the
// statement has changed.
func execute(t *testing.T, conn *pgx.Conn, statement string, args ...any) int64 {
	t.Helper()
	tag, err := conn.Exec(t.Context(), statement, args...)
	fatalIf(t, err)
	return tag.RowsAffected()
}
