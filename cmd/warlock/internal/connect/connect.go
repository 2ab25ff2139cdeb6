// Package connect makes a Redis client from what a user gives on the command line
// or in the environment. No error of it has a password in it.
package connect

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/url"
	"os"
	"strings"

	"github.com/redis/go-redis/v9"
)

// A Source is where Redis is, and as whom to log in. Empty fields are looked up in
// the environment.
type Source struct {
	URL          string // else WARLOCK_REDIS, or REDIS_URL
	User         string // else WARLOCK_USER, or the URL's
	UserFile     string // has the user; else WARLOCK_USER_FILE
	PasswordFile string // has the password; else WARLOCK_PASSWORD, or WARLOCK_PASSWORD_FILE

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
	redisLogin, err := s.login()
	if err != nil {
		return nil, err
	}
	sentinelLogin, err := s.sentinelLogin()
	if err != nil {
		return nil, err
	}
	return a.client(redisLogin, sentinelLogin)
}

// A login is a user and a password. Empty ones leave those of the URL.
type login struct{ user, password string }

// override replaces the user and the password that the URL gave, where l has others.
func (l login) override(user, password *string) {
	*user, *password = first(l.user, *user), first(l.password, *password)
}

// login returns the user and the password for Redis.
func (s Source) login() (l login, err error) {
	if l.user, err = secret(first(s.UserFile, s.Getenv("WARLOCK_USER_FILE"))); err != nil {
		return l, err
	}
	l.user = first(s.User, l.user, s.Getenv("WARLOCK_USER"))
	file := s.PasswordFile
	if file == "" && s.Getenv("WARLOCK_PASSWORD") == "" {
		file = s.Getenv("WARLOCK_PASSWORD_FILE")
	}
	l.password, err = secret(file)
	l.password = first(l.password, s.Getenv("WARLOCK_PASSWORD"))
	return l, err
}

// sentinelLogin returns the user and the password for the Sentinels.
func (s Source) sentinelLogin() (l login, err error) {
	l.user = s.Getenv("WARLOCK_SENTINEL_USER")
	l.password, err = secret(s.Getenv("WARLOCK_SENTINEL_PASSWORD_FILE"))
	l.password = first(l.password, s.Getenv("WARLOCK_SENTINEL_PASSWORD"))
	return l, err
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
	text, err := io.ReadAll(io.LimitReader(f, mostSecret))
	if err != nil {
		return "", err
	}
	if s := strings.TrimRight(string(text), "\r\n"); s != "" {
		return s, nil
	}
	return "", fmt.Errorf("%s is empty: put the user or password into it", file)
}

// An address is what a URL says.
type address struct {
	base    url.URL // with the first host
	hosts   []string
	master  string // of Sentinels; empty: there are none
	cluster bool
}

// parse reads a URL. It may have several hosts, with a comma between them.
func parse(text string) (a address, err error) {
	hosts, text := cutHosts(text)
	u, err := url.Parse(text)
	if err != nil {
		return a, unreadable(err)
	}
	switch u.Scheme {
	case "redis", "rediss", "unix":
	default:
		return a, errors.New("the URL of Redis begins with redis://, rediss:// or unix://")
	}
	query := u.Query()
	a.base, a.hosts = *u, append([]string{u.Host}, hosts...)
	a.master = first(query.Get("master"), query.Get("master_name"))
	switch query.Get("cluster") {
	case "", "false", "0":
		a.cluster = len(hosts) > 0 && a.master == ""
	default:
		a.cluster = true
	}
	for _, ours := range []string{"master", "master_name", "cluster"} {
		query.Del(ours)
	}
	a.base.RawQuery = query.Encode()
	if (a.cluster || a.master != "") && u.Scheme == "unix" {
		return a, errors.New("a unix:// URL is of one server: give the addresses of a Cluster or of Sentinels by redis://")
	}
	if a.cluster && a.master != "" {
		return a, errors.New("the URL of Redis names a master, as with Sentinels, and a Cluster: leave one out")
	}
	return a, nil
}

// cutHosts takes all hosts but the first out of a URL.
func cutHosts(text string) (more []string, rest string) {
	scheme, after, ok := strings.Cut(text, "://")
	if !ok || scheme == "unix" {
		return nil, text
	}
	authority, path := after, ""
	if i := strings.IndexAny(after, "/?#"); i >= 0 {
		authority, path = after[:i], after[i:]
	}
	login, hosts := "", authority
	if i := strings.LastIndex(authority, "@"); i >= 0 {
		login, hosts = authority[:i+1], authority[i+1:]
	}
	all := strings.Split(hosts, ",")
	return all[1:], scheme + "://" + login + all[0] + path
}

// unreadable returns an error about a URL that url.Parse refused with err, without
// the URL, in which a password may be.
func unreadable(err error) error {
	const advice = "write special characters of a password as %XX, or put it into a file (--password-file)"
	var bad *url.Error
	var escape url.EscapeError
	switch {
	case errors.As(err, &escape):
		return fmt.Errorf("the URL of Redis cannot be read: a %% is not followed by two hexadecimal digits: %s", advice)
	case errors.As(err, &bad) && strings.Contains(bad.Err.Error(), "port"):
		return fmt.Errorf("the URL of Redis cannot be read: after the host comes a port, a number: %s", advice)
	}
	return fmt.Errorf("the URL of Redis cannot be read: %s", advice)
}

// client returns a client for a.
func (a address) client(l, sentinel login) (redis.UniversalClient, error) {
	switch {
	case a.master != "":
		return a.failoverClient(l, sentinel)
	case a.cluster:
		return a.clusterClient(l)
	}
	o, err := redis.ParseURL(a.base.String())
	if err != nil {
		return nil, a.refused(err)
	}
	l.override(&o.Username, &o.Password)
	o.ContextTimeoutEnabled = true
	return redis.NewClient(o), nil
}

func (a address) clusterClient(l login) (redis.UniversalClient, error) {
	if path := strings.Trim(a.base.Path, "/"); path != "" && path != "0" {
		return nil, errors.New("a Cluster has database 0 alone: leave the number out of the URL")
	}
	o, err := redis.ParseClusterURL(a.withHosts("6379"))
	if err != nil {
		return nil, a.refused(err)
	}
	l.override(&o.Username, &o.Password)
	o.ContextTimeoutEnabled = true
	return redis.NewClusterClient(o), nil
}

func (a address) failoverClient(l, sentinel login) (redis.UniversalClient, error) {
	o, err := redis.ParseFailoverURL(a.withHosts("26379"))
	if err != nil {
		return nil, a.refused(err)
	}
	o.MasterName = a.master
	if a.base.User != nil { // the library takes it for the Sentinels'
		o.Username = first(o.Username, o.SentinelUsername)
		o.Password = first(o.Password, o.SentinelPassword)
	}
	o.SentinelUsername, o.SentinelPassword = sentinel.user, sentinel.password
	l.override(&o.Username, &o.Password)
	o.ContextTimeoutEnabled = true
	return redis.NewFailoverClient(o), nil
}

// withHosts returns the URL in the form of go-redis, which has the second and later
// hosts in its query.
func (a address) withHosts(port string) string {
	u, query := a.base, a.base.Query()
	u.Host = withPort(a.hosts[0], port)
	for _, host := range a.hosts[1:] {
		query.Add("addr", withPort(host, port))
	}
	u.RawQuery = query.Encode()
	return u.String()
}

// withPort returns host with that port, unless it has one.
func withPort(host, port string) string {
	if _, _, err := net.SplitHostPort(host); err == nil {
		return host
	}
	return net.JoinHostPort(strings.Trim(host, "[]"), port)
}

// refused returns an error about a URL that go-redis refused with err. A password is
// never in err, unless it is in a part of the URL where none belongs.
func (a address) refused(err error) error {
	text := err.Error()
	for _, part := range a.secrets() {
		text = strings.ReplaceAll(text, part, "...")
	}
	return fmt.Errorf("the URL of Redis cannot be used: %s", strings.TrimPrefix(text, "redis: "))
}

// secrets returns the parts of the URL that may be passwords.
func (a address) secrets() (parts []string) {
	if password, ok := a.base.User.Password(); ok && password != "" {
		parts = append(parts, password, url.QueryEscape(password), url.PathEscape(password))
	}
	if password := a.base.Query().Get("password"); password != "" {
		parts = append(parts, password)
	}
	return parts
}
