package main

import (
	"context"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/warlock-go/warlock/internal/redistest"
)

func TestServeOnWrongUse(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	empty, short := fileOf(t, "\n"), fileOf(t, "0123456789\n")
	long := fileOf(t, strings.Repeat("x", longestToken+1))
	for _, c := range []struct {
		args   string
		token  string // in the environment
		status int
		says   string
	}{
		{"--listen 0.0.0.0:0", "", exitUsage, "other machines can reach 0.0.0.0:0"},
		{"--listen :0", "", exitUsage, "other machines can reach :0"},
		{"--listen localhost", "", exitUsage, "wants a host and a port"},
		{"--listen :0", "short", exitUsage, "the token of WARLOCK_TOKEN has 5 bytes"},
		{"--token-file " + empty, "", exitUsage, "is empty"},
		{"--token-file " + short, "a token that is long enough", exitUsage, "has 10 bytes"},
		{"--token-file " + long, "", exitUsage, "it needs 16 to 4096"},
		{"--token-file " + empty + ".none", "", exitUsage, ".none"},
		{"--listen " + taken.Addr().String(), "", exitUnavailable, "is in use: stop the program"},
		{"a b", "", exitUsage, "accepts at most 1 arg"},
	} {
		t.Setenv("WARLOCK_TOKEN", c.token)
		status, out, errs := run(t.Context(), append([]string{"serve"}, strings.Fields(c.args)...)...)
		if status != c.status || !strings.Contains(errs, c.says) || out != "" {
			t.Errorf("%s: status %d, %q, %q", c.args, status, errs, out)
		}
		if strings.Count(errs, "\n") != 1 || strings.Contains(errs, "0123456789") {
			t.Errorf("%s: it says %q", c.args, errs)
		}
	}
}

// fileOf returns the path of a file with text.
func fileOf(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// TestServe starts a server that other machines can reach, and ends it.
func TestServe(t *testing.T) {
	on := redistest.StartMini(t)
	t.Setenv("WARLOCK_TOKEN", "a token that is long enough")
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	reader, out := io.Pipe()
	ended := make(chan int, 1)
	var errs strings.Builder
	go func() {
		defer out.Close()
		args := []string{"serve", "--listen", "0.0.0.0:0", "--redis", "redis://" + on.Addr}
		ended <- execute(ctx, args, strings.NewReader(""), out, &errs)
	}()
	line := make([]byte, 100)
	n, _ := reader.Read(line) // an error leaves no line
	port := regexp.MustCompile(`^Listening at http://.*:(\d+)/\n$`).FindSubmatch(line[:n])
	if port == nil {
		t.Fatalf("it says %q", line[:n])
	}
	for auth, want := range map[string]int{"": 401, "Bearer a token that is long enough": 200} {
		r, _ := http.NewRequestWithContext(ctx, "GET", "http://127.0.0.1:"+string(port[1]), nil)
		r.Header.Set("Authorization", auth)
		answer, err := http.DefaultClient.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		answer.Body.Close()
		if answer.StatusCode != want {
			t.Errorf("with %q: %s", auth, answer.Status)
		}
	}
	cancel()
	if status := <-ended; status != 0 || errs.Len() > 0 {
		t.Errorf("it ended with %d, %s", status, errs.String())
	}
}
