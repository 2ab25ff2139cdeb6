package serve

import (
	"net/http"
	"testing"
)

func TestLoopback(t *testing.T) {
	for listen, want := range map[string]bool{
		"127.0.0.1:7379":          true,
		"127.8.8.8:7379":          true,
		"[::1]:7379":              true,
		"[::ffff:127.0.0.1]:7379": true,
		"localhost:7379":          true,
		"LocalHost.:7379":         true,
		":7379":                   false,
		"0.0.0.0:7379":            false,
		"[::]:7379":               false,
		"10.0.0.5:7379":           false,
		"localhost.example:7379":  false,
		"127.0.0.1.example:7379":  false,
	} {
		if got := Loopback(listen); got != want {
			t.Errorf("Loopback(%q) = %v", listen, got)
		}
	}
}

func TestServed(t *testing.T) {
	names := []string{"Locks.Example.com", "other.example:8443", "10.0.0.5", "[fd00::5]"}
	for _, c := range []struct {
		host, listen string
		want         bool
	}{
		{"127.0.0.1:7379", "127.0.0.1:7379", true},
		{"localhost:7379", "127.0.0.1:7379", true},
		{"LOCALHOST.:7379", "127.0.0.1:7379", true},
		{"[::1]:7379", "127.0.0.1:7379", true},
		{"box:7379", "box:7379", true},
		{"localhost", "127.0.0.1:80", true},
		{"locks.example.com", "127.0.0.1:7379", true},
		{"locks.example.com:443", "127.0.0.1:7379", true},
		{"other.example:8443", "127.0.0.1:7379", true},
		{"10.0.0.5:7379", "0.0.0.0:7379", true},
		{"[fd00::5]:7379", "[::]:7379", true},
		{"[fd00::5]", "[::]:7379", true},

		{"", "127.0.0.1:7379", false},
		{"", ":7379", false},
		{":7379", ":7379", false},
		{"localhost", "127.0.0.1:7379", false},
		{"localhost:7380", "127.0.0.1:7379", false},
		{"127.0.0.1:80", "127.0.0.1:7379", false},
		{"evil.example:7379", "127.0.0.1:7379", false},
		{"localhost.evil.example:7379", "127.0.0.1:7379", false},
		{"evil.locks.example.com", "127.0.0.1:7379", false},
		{"other.example", "127.0.0.1:7379", false},
		{"other.example:7379", "127.0.0.1:7379", false},
		{"127.0.0.2:7379", "127.0.0.1:7379", false},
		{"user@localhost:7379", "127.0.0.1:7379", false},
		{"[::1", "127.0.0.1:7379", false},
	} {
		if got := served(c.host, c.listen, names); got != c.want {
			t.Errorf("served(%q, %q) = %v", c.host, c.listen, got)
		}
	}
}

func TestOwnPage(t *testing.T) {
	served := func(host string) bool { return host == "localhost:7379" }
	for _, c := range []struct {
		site, origin string
		want         bool
	}{
		{"", "", true},
		{"same-origin", "", true},
		{"", "http://localhost:7379", true},
		{"same-origin", "http://localhost:7379", true},
		{"same-origin", "https://localhost:7379", true}, // a proxy may speak TLS

		{"cross-site", "", false},
		{"same-site", "http://localhost:7379", false},
		{"none", "", false},
		{"", "http://localhost:8080", false},
		{"", "http://evil.example", false},
		{"same-origin", "http://evil.example", false},
		{"", "null", false},
		{"", "http://localhost:7379@evil.example", false},
		{"", "%", false},
	} {
		h := http.Header{}
		for name, value := range map[string]string{"Sec-Fetch-Site": c.site, "Origin": c.origin} {
			if value != "" {
				h.Set(name, value)
			}
		}
		if got := ownPage(h, served); got != c.want {
			t.Errorf("ownPage(site %q, origin %q) = %v", c.site, c.origin, got)
		}
	}
}
