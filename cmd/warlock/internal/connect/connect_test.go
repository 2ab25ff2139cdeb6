package connect

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// write writes a file with text, and returns its name.
func write(t *testing.T, text string) string {
	t.Helper()
	name := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return name
}

func TestWhereTheURLIsFrom(t *testing.T) {
	env := environment{"WARLOCK_REDIS": "redis://w", "REDIS_URL": "redis://r"}
	if got := open(t, Source{URL: "redis://flag", Getenv: env.get}).addrs[0]; got != "flag:6379" {
		t.Errorf("a URL of the command line: %s", got)
	}
	if got := open(t, Source{Getenv: env.get}).addrs[0]; got != "w:6379" {
		t.Errorf("WARLOCK_REDIS and REDIS_URL: %s", got)
	}
	delete(env, "WARLOCK_REDIS")
	if got := open(t, Source{Getenv: env.get}).addrs[0]; got != "r:6379" {
		t.Errorf("REDIS_URL: %s", got)
	}
	t.Setenv("WARLOCK_REDIS", "redis://process")
	client, err := Source{}.Open()
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	if got := client.(interface{ String() string }).String(); !strings.Contains(got, "process:6379") {
		t.Errorf("without Getenv: %s", got)
	}
}

// in returns e with a URL.
func in(e environment, url string) environment {
	with := environment{"WARLOCK_REDIS": url}
	maps.Copy(with, e)
	return with
}

func TestWhereUsersAndPasswordsAreFrom(t *testing.T) {
	user, password := write(t, "file-user\n"), write(t, hard+"\r\n")
	variables := environment{"WARLOCK_USER": "env-user", "WARLOCK_PASSWORD": hard}
	files := environment{"WARLOCK_USER_FILE": user, "WARLOCK_PASSWORD_FILE": password}
	both := environment{"WARLOCK_USER": "env-user", "WARLOCK_PASSWORD": "env",
		"WARLOCK_USER_FILE": "/missing", "WARLOCK_PASSWORD_FILE": "/missing"}
	const plain, full, half = "redis://db", "redis://url-user:url@db", "redis://url-user@db"
	for name, c := range map[string]struct {
		source         Source
		env            environment
		user, password string
	}{
		"nothing":                      {Source{URL: plain}, nil, "", ""},
		"variables":                    {Source{URL: plain}, variables, "env-user", hard},
		"files of variables":           {Source{URL: plain}, files, "file-user", hard},
		"variables before their files": {Source{URL: plain}, both, "env-user", "env"},
		"flags": {Source{URL: full, User: "flag-user", UserFile: "/missing", PasswordFile: password},
			both, "flag-user", hard},
		"files of flags": {Source{URL: full, UserFile: user, PasswordFile: password},
			both, "file-user", hard},
		"a user beside a URL":          {Source{URL: full, User: "flag-user"}, nil, "flag-user", "url"},
		"a URL of the command line":    {Source{URL: full}, both, "url-user", "url"},
		"half a URL, and the variable": {Source{URL: half}, variables, "url-user", hard},
		"a URL of the environment":     {Source{}, in(variables, full), "env-user", hard},
		"such a URL, and files":        {Source{}, in(files, full), "file-user", hard},
		"such a URL alone":             {Source{}, in(nil, full), "url-user", "url"},
	} {
		c.source.Getenv = c.env.get
		got := open(t, c.source)
		if got.user != c.user || got.password != c.password {
			t.Errorf("%s: %q and %q, want %q and %q", name, got.user, got.password, c.user, c.password)
		}
	}
}

func TestSentinelsHaveTheirOwnLogin(t *testing.T) {
	env := environment{
		"WARLOCK_SENTINEL_USER":          "guard",
		"WARLOCK_SENTINEL_PASSWORD_FILE": write(t, hard),
	}
	got, err := Source{Getenv: env.get}.sentinelLogin()
	if want := (login{"guard", hard}); err != nil || got != want {
		t.Errorf("%+v, %v; want %+v", got, err, want)
	}
	env["WARLOCK_SENTINEL_PASSWORD_FILE"] = "/missing"
	open(t, Source{URL: "redis://db", Getenv: env.get}) // which has no Sentinels
	if _, err := (Source{URL: "redis://db?master=m", Getenv: env.get}).Open(); err == nil {
		t.Error("the missing file of a password is no error")
	}
}

func TestFilesOfSecrets(t *testing.T) {
	for text, want := range map[string]string{
		"pw": "pw", "pw\n": "pw", "pw\r\n": "pw", " pw \n": " pw ",
		hard + "\n": hard, "ä€𝄞\n": "ä€𝄞",
	} {
		if got, err := secret(write(t, text)); got != want || err != nil {
			t.Errorf("a file of %q: %q, %v", text, got, err)
		}
	}
	for name, file := range map[string]string{
		"no such file": filepath.Join(t.TempDir(), "missing"),
		"a directory":  t.TempDir(),
		"is empty":     write(t, "\n"),
		"is too long":  write(t, strings.Repeat(secretWord, mostSecret)),
	} {
		got, err := secret(file)
		text := fmt.Sprint(err)
		if got != "" || !strings.Contains(text, name) || strings.Contains(text, secretWord) {
			t.Errorf("%s: %q, %s", name, got, text)
		}
	}
}
