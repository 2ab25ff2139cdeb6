// Package connect makes a Redis client from what a user gives on the command line
// or in the environment. No error of it has a password in it.
package connect

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/redis/go-redis/v9"
)

// A Source is where Redis is, and as whom to log in. The command line wins over the
// environment, and what is given beside a URL wins over that URL.
type Source struct {
	URL          string // else WARLOCK_REDIS, or REDIS_URL
	User         string // else of UserFile, URL, WARLOCK_USER, or WARLOCK_USER_FILE
	UserFile     string // has the user
	PasswordFile string // has the password; else URL, WARLOCK_PASSWORD, or WARLOCK_PASSWORD_FILE

	Getenv func(string) string // nil: os.Getenv
}

// defaultURL is where Redis is if nothing says otherwise.
const defaultURL = "redis://localhost:6379"

// Open returns a client. It does not connect yet.
func (s Source) Open() (redis.UniversalClient, error) {
	if s.Getenv == nil {
		s.Getenv = os.Getenv
	}
	a, err := parse(first(s.URL, s.Getenv("WARLOCK_REDIS"), s.Getenv("REDIS_URL"), defaultURL))
	if err != nil {
		return nil, err
	}
	redisLogin, err := s.login(a.login)
	if err != nil {
		return nil, err
	}
	var sentinelLogin login
	if a.master != "" {
		if sentinelLogin, err = s.sentinelLogin(); err != nil {
			return nil, err
		}
	}
	return a.client(redisLogin, sentinelLogin)
}

// A login is a user and a password. Either may be empty.
type login struct{ user, password string }

// login returns the user and the password for Redis, of which the URL has some.
func (s Source) login(ofURL login) (l login, err error) {
	if l.user, err = s.credential(s.User, s.UserFile, ofURL.user, "WARLOCK_USER"); err != nil {
		return l, err
	}
	l.password, err = s.credential("", s.PasswordFile, ofURL.password, "WARLOCK_PASSWORD")
	return l, err
}

// sentinelLogin returns the user and the password for the Sentinels.
func (s Source) sentinelLogin() (l login, err error) {
	if l.user, err = s.credential("", "", "", "WARLOCK_SENTINEL_USER"); err != nil {
		return l, err
	}
	l.password, err = s.credential("", "", "", "WARLOCK_SENTINEL_PASSWORD")
	return l, err
}

// credential returns a user or a password. It is the first that is not empty: flag,
// the content of file, ofURL if the URL is of the command line, the environment
// variable, the content of the file that the variable with _FILE names, ofURL.
func (s Source) credential(flag, file, ofURL, variable string) (string, error) {
	value := s.Getenv(variable)
	switch {
	case flag != "":
		return flag, nil
	case file != "":
		return secret(file)
	case s.URL != "" && ofURL != "":
		return ofURL, nil
	case value != "":
		return value, nil
	}
	value, err := secret(s.Getenv(variable + "_FILE"))
	return first(value, ofURL), err
}

// first returns the first of values that is not empty, or "".
func first(values ...string) string {
	for _, v := range values {
		if v != "" {
			return v
		}
	}
	return ""
}

// mostSecret is how long a user or password may be (bytes).
const mostSecret = 64 << 10

// secret returns what is in a file, without the end of its last line. Without a file
// it returns "".
func secret(file string) (string, error) {
	if file == "" {
		return "", nil
	}
	f, err := os.Open(file)
	if err != nil {
		return "", err
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, mostSecret+1))
	if err != nil {
		return "", err
	}
	if len(text) > mostSecret {
		return "", fmt.Errorf("%s is too long for a user or password", file)
	}
	if s := strings.TrimRight(string(text), "\r\n"); s != "" {
		return s, nil
	}
	return "", fmt.Errorf("%s is empty: put the user or password into it", file)
}

// client returns a client for a. The logins replace those of the URL.
func (a address) client(l, sentinel login) (c redis.UniversalClient, err error) {
	defer func() { // go-redis panics if a number is out of range
		if recover() != nil {
			c, err = nil, errors.New("an option of the URL of Redis has a value that cannot be used")
		}
	}()
	switch {
	case a.master != "":
		return a.failoverClient(l, sentinel)
	case a.cluster:
		return a.clusterClient(l)
	}
	o, err := redis.ParseURL(a.base.String())
	if err != nil {
		return nil, refused(err)
	}
	o.Username, o.Password = l.user, l.password
	o.ContextTimeoutEnabled = true
	return redis.NewClient(o), nil
}

func (a address) clusterClient(l login) (redis.UniversalClient, error) {
	if path := strings.Trim(a.base.Path, "/"); path != "" && path != "0" {
		return nil, errors.New("a Cluster has database 0 alone: leave the number out of the URL")
	}
	o, err := redis.ParseClusterURL(a.withHosts("6379"))
	if err != nil {
		return nil, refused(err)
	}
	if o.TLSConfig != nil && len(a.hosts) > 1 {
		o.TLSConfig.ServerName = "" // each host has a certificate of its own name
	}
	o.Username, o.Password = l.user, l.password
	o.ContextTimeoutEnabled = true
	return redis.NewClusterClient(o), nil
}

func (a address) failoverClient(l, sentinel login) (redis.UniversalClient, error) {
	o, err := redis.ParseFailoverURL(a.withHosts("26379"))
	if err != nil {
		return nil, refused(err)
	}
	if o.TLSConfig != nil && len(a.hosts) > 1 {
		o.TLSConfig.ServerName = "" // as for a Cluster
	}
	o.MasterName = a.master
	o.Username, o.Password = l.user, l.password
	o.SentinelUsername, o.SentinelPassword = sentinel.user, sentinel.password
	o.ContextTimeoutEnabled = true
	return redis.NewFailoverClient(o), nil
}
