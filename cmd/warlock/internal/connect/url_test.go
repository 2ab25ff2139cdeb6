package connect

import (
	"crypto/tls"
	"slices"
	"strings"
	"testing"

	"github.com/redis/go-redis/v9"
)

// hard is a password of characters that mean something in a URL.
const (
	hard    = `p@ss/w:ord%#?`
	hardURL = "p%40ss%2Fw%3Aord%25%23%3F"
)

// options are what the clients of one server, of a Cluster and of Sentinels have in
// common.
type options struct {
	kind           string // client, cluster or sentinel
	addrs          []string
	user, password string
	db             int
	tls            *tls.Config
}

// open opens a client for URL, and returns what it is set to.
func open(t *testing.T, s Source) options {
	t.Helper()
	if s.Getenv == nil {
		s.Getenv = environment{}.get
	}
	client, err := s.Open()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = client.Close() })
	switch c := client.(type) {
	case *redis.ClusterClient:
		o := c.Options()
		return options{"cluster", o.Addrs, o.Username, o.Password, 0, o.TLSConfig}
	case *redis.Client:
		o := c.Options()
		got := options{"client", []string{o.Addr}, o.Username, o.Password, o.DB, o.TLSConfig}
		if o.Addr == "FailoverClient" {
			got.kind, got.addrs = "sentinel", nil
		}
		return got
	}
	t.Fatalf("Open returned a %T", client)
	return options{}
}

// An environment is what Getenv has.
type environment map[string]string

func (e environment) get(name string) string { return e[name] }

// one and many are the options of a client that are given by hosts alone.
func one(addr string) options      { return options{kind: "client", addrs: []string{addr}} }
func many(addrs ...string) options { return options{kind: "cluster", addrs: addrs} }

var goodURLs = []struct {
	url  string
	want options
	tls  bool
}{
	{"", one("localhost:6379"), false},
	{"redis://", one("localhost:6379"), false},
	{"redis://db", one("db:6379"), false},
	{"redis://db:7000", one("db:7000"), false},
	{" redis://db:7000\n", one("db:7000"), false},
	{"redis://:7000", one("localhost:7000"), false},
	{"redis://[::1]:7000", one("[::1]:7000"), false},
	{"redis://[::1]", one("[::1]:6379"), false},
	{"redis://db?cluster=false", one("db:6379"), false},
	{"redis://db/3", options{"client", []string{"db:6379"}, "", "", 3, nil}, false},
	{"redis://db?db=3", options{"client", []string{"db:6379"}, "", "", 3, nil}, false},
	{"redis://:pw@db", options{"client", []string{"db:6379"}, "", "pw", 0, nil}, false},
	{"redis://jane:pw@db/1", options{"client", []string{"db:6379"}, "jane", "pw", 1, nil}, false},
	{"redis://jane@db", options{"client", []string{"db:6379"}, "jane", "", 0, nil}, false},
	{"redis://:" + hardURL + "@db", options{"client", []string{"db:6379"}, "", hard, 0, nil}, false},
	{"redis://:a@b@db", options{"client", []string{"db:6379"}, "", "a@b", 0, nil}, false},
	{"redis://:a,b@db", options{"client", []string{"db:6379"}, "", "a,b", 0, nil}, false},
	{"rediss://db", one("db:6379"), true},
	{"unix:///run/redis.sock", one("/run/redis.sock"), false},
	{"unix:///run/a%40b.sock", one("/run/a@b.sock"), false},
	{"unix://jane:" + hardURL + "@/run/redis.sock?db=2",
		options{"client", []string{"/run/redis.sock"}, "jane", hard, 2, nil}, false},
	{"redis://a,b:7000", many("a:6379", "b:7000"), false},
	{"redis://a:1, b:2", many("a:1", "b:2"), false},
	{"redis://a,[::1],[::2]:3", many("a:6379", "[::1]:6379", "[::2]:3"), false},
	{"redis://a?addr=b:2&addr=c", many("a:6379", "b:2", "c:6379"), false},
	{"redis://a?cluster=true", many("a:6379"), false},
	{"redis://a?cluster", many("a:6379"), false},
	{"redis://a/0?cluster=1", many("a:6379"), false},
	{"rediss://a,b", many("a:6379", "b:6379"), true},
	{"redis://jane:" + hardURL + "@a,b",
		options{"cluster", []string{"a:6379", "b:6379"}, "jane", hard, 0, nil}, false},
	{"redis://a?master=m", options{kind: "sentinel"}, false},
	{"redis://a,b:2/4?master=m", options{kind: "sentinel", db: 4}, false},
	{"redis://a?master_name=m&username=jane&password=pw",
		options{"sentinel", nil, "jane", "pw", 0, nil}, false},
	{"rediss://jane:" + hardURL + "@a,b?master=m",
		options{"sentinel", nil, "jane", hard, 0, nil}, true},
}

func TestURLs(t *testing.T) {
	for _, c := range goodURLs {
		got := open(t, Source{URL: c.url})
		where := got.kind == c.want.kind && slices.Equal(got.addrs, c.want.addrs) && got.db == c.want.db
		who := got.user == c.want.user && got.password == c.want.password
		if !where || !who || (got.tls != nil) != c.tls {
			t.Errorf("%q: %+v, want %+v, TLS %v", c.url, got, c.want, c.tls)
		}
	}
}

// A certificate is checked against the name of the host that is dialled.
func TestServerNames(t *testing.T) {
	for url, want := range map[string]string{
		"rediss://a":               "a",
		"rediss://a?cluster=true":  "a",
		"rediss://a,b":             "", // that of each host
		"rediss://a,b?master=main": "",
	} {
		if got := open(t, Source{URL: url}).tls.ServerName; got != want {
			t.Errorf("%s: server name %q, want %q", url, got, want)
		}
	}
}

// secretWord stands in all passwords of the tests that look for it in errors.
const secretWord = "SECRET123"

var badURLs = []struct{ url, want string }{
	{"localhost:6379", "begins with redis://"},
	{"http://localhost", "begins with redis://"},
	{":SECRET123@localhost:6379", "begins with redis://"},
	{"user:SECRET123@localhost", "begins with redis://"},
	{"redis:user:SECRET123@localhost", "begins with redis://"},
	{"redis:/user:SECRET123@localhost", "begins with redis://"},
	{"SECRET123", "begins with redis://"},
	{"redis://:SECRET123/x@db:6379/0", "an @ or # behind its host"},
	{"redis://:1/SECRET123@db:6379/0", "an @ or # behind its host"},
	{"redis://:1#SECRET123@db", "an @ or # behind its host"},
	{"redis://:1#SECRET123", "an @ or # behind its host"},
	{"redis://:1?SECRET123@db", "an @ or # behind its host"},
	{"redis://:x@y/SECRET123@db", "an @ or # behind its host"},
	{"unix://:1/SECRET123@/run/redis.sock", "an @ or # behind its host"},
	{"redis://:SECRET123%zz@db", "two hexadecimal digits"},
	{"redis://:SECRET123%@db", "two hexadecimal digits"},
	{"redis://:SECRET123", "comes a port"},
	{"redis://jane:SECRET123", "comes a port"},
	{"redis://db,jane:SECRET123", "comes a port"},
	{"redis://:SECRET123,x", "comes a port"},
	{"redis://:SECRET123 x@db", "--password-file"},
	{"redis://:SECRET123\x7f@db", "--password-file"},
	{"redis://:SECRET123\\x@db:y", "--password-file"},
	{"redis://:SECRET123@db/SECRET123", "number of a database"},
	{"redis://:SECRET123@db/1/SECRET123", "number of a database"},
	{"redis://:SECRET123@db?db=SECRET123", "number of a database"},
	{"redis://:SECRET123@db?SECRET123", "hosts or options is wrong"},
	{"redis://:SECRET123@db?colour=SECRET123", "not known here: colour"},
	{"redis://:SECRET123@db?pool_size=SECRET123", "pool_size of the URL of Redis is not a number"},
	{"redis://:SECRET123@db?pool_size=99999999999", "has a value that cannot be used"},
	{"redis://:SECRET123@db?read_timeout=SECRET123", "of the URL of Redis is not a duration"},
	{"redis://:SECRET123@db?pool_fifo=SECRET123", "pool_fifo of the URL of Redis is not a boolean"},
	{"redis://:SECRET123@a,b?cluster=SECRET123", "cluster of the URL of Redis is true or false"},
	{"redis://:SECRET123@a,b?cluster=false", "has several hosts"},
	{"redis://:SECRET123@a,,b", "an empty host"},
	{"redis://:SECRET123@a,", "an empty host"},
	{"redis://:SECRET123@,b", "an empty host"},
	{"redis://:SECRET123@a,b%zz", "two hexadecimal digits"},
	{"redis://a?addr=jane:SECRET123%40b", "a host that is none"},
	{"redis://:SECRET123@a?cluster=true&master=m", "leave one out"},
	{"redis://:SECRET123@a/1?cluster=true", "database 0 alone"},
	{"redis://:SECRET123@a?master=m&route_by_latency=true", "cannot be used"},
	{"redis://:SECRET123@a?master=m&colour=1", "not known here: colour"},
	{"unix://", "the path of a socket"},
	{"unix:///", "the path of a socket"},
	{"unix://run/redis.sock", "the path of a socket"},
	{"unix://:SECRET123@/run/redis.sock?cluster=true", "one server"},
	{"unix://:SECRET123@/run/redis.sock?master=m", "one server"},
}

func TestBadURLs(t *testing.T) {
	for _, c := range badURLs {
		client, err := Source{URL: c.url, Getenv: environment{}.get}.Open()
		if err == nil {
			_ = client.Close()
			t.Errorf("%q can be used", c.url)
			continue
		}
		if !strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), "\n") {
			t.Errorf("%q: %v, want %q in it", c.url, err, c.want)
		}
		if strings.Contains(err.Error(), secretWord) {
			t.Errorf("%q: the password is in the error: %v", c.url, err)
		}
	}
}

// FuzzErrors looks for a password in the errors about a URL. The text around the
// password is what the fuzzer finds.
func FuzzErrors(f *testing.F) {
	for _, before := range []string{
		"redis://:", "rediss://jane:", "unix://:", "redis:", "",
		"redis://a,b:", "redis://:1/", "redis://db/",
	} {
		for _, after := range []string{
			"@db", "/x@db", "#?@db:1", "%@db", "@a,b?cluster=x",
			"@db/x?y=z", "", "@[::1", "\x00@db", "@/a.sock",
		} {
			f.Add(before, after)
		}
	}
	f.Fuzz(func(t *testing.T, before, after string) {
		text := before + secretWord + after
		client, err := Source{URL: text, Getenv: environment{}.get}.Open()
		if err == nil {
			_ = client.Close()
			return
		}
		if strings.Contains(err.Error(), secretWord) {
			t.Errorf("%q: %v", text, err)
		}
	})
}
