package connect

import (
	"errors"
	"fmt"
	"net"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// An address is a URL that was read.
type address struct {
	base    url.URL // with the first host, without login
	login   login
	hosts   []string
	master  string // of Sentinels; empty: there are none
	cluster bool
}

// escapeAdvice is for URLs in which a password may have gone astray.
const escapeAdvice = "write special characters of a password as %XX, " +
	"or put it into a file (--password-file)"

// ours are the options of a URL that go-redis does not get.
var ours = []string{"master", "master_name", "cluster", "addr", "username", "password"}

// parse reads a URL. It may have several hosts, with a comma between them.
func parse(text string) (a address, err error) {
	text = strings.TrimSpace(text)
	if err := check(text); err != nil {
		return a, err
	}
	hosts, text := cutHosts(text)
	u, err := url.Parse(text)
	if err != nil {
		return a, unreadable(err)
	}
	query := u.Query()
	a.hosts = append([]string{u.Host}, append(hosts, query["addr"]...)...)
	if err := checkHosts(a.hosts); err != nil {
		return a, err
	}
	a.login.user = first(u.User.Username(), query.Get("username"))
	password, _ := u.User.Password()
	a.login.password = first(password, query.Get("password"))
	a.master = first(query.Get("master"), query.Get("master_name"))
	if a.cluster, err = isCluster(query, len(a.hosts) > 1 && a.master == ""); err != nil {
		return a, err
	}
	for _, option := range ours {
		query.Del(option)
	}
	a.base = *u
	a.base.User, a.base.RawQuery = nil, query.Encode()
	return a, a.checkKind()
}

// check returns an error if text is surely no URL of Redis. An @ behind the host means
// that a character of the password has ended the host too early. The password would
// then be in the path or the query, and get into errors.
func check(text string) error {
	scheme, rest, ok := strings.Cut(text, "://")
	if !ok || !slices.Contains([]string{"redis", "rediss", "unix"}, scheme) {
		return errors.New("the URL of Redis begins with redis://, rediss:// or unix://")
	}
	if i := strings.IndexAny(rest, "/?#"); i >= 0 && strings.ContainsAny(rest[i:], "@#") {
		return errors.New("the URL of Redis has an @ or # behind its host: " + escapeAdvice)
	}
	return nil
}

// checkHosts returns an error if one of several hosts is none. url.Parse has seen the
// first of them alone.
func checkHosts(hosts []string) error {
	if len(hosts) == 1 {
		return nil
	}
	for _, host := range hosts {
		if host == "" {
			return errors.New("the URL of Redis has an empty host: put one comma between two hosts")
		}
		if u, err := url.Parse("redis://" + host); err != nil {
			return unreadable(err)
		} else if u.Host != host {
			return errors.New("the URL of Redis has a host that is none: " + escapeAdvice)
		}
	}
	return nil
}

// isCluster reads the parameter cluster, which is automatic if there is none.
func isCluster(query url.Values, automatic bool) (bool, error) {
	switch value := query.Get("cluster"); {
	case !query.Has("cluster"):
		return automatic, nil
	case value == "":
		return true, nil
	default:
		is, err := strconv.ParseBool(value)
		if err != nil {
			return false, errors.New("the option cluster of the URL of Redis is true or false")
		}
		return is, nil
	}
}

// checkKind returns an error if a is of several kinds of Redis, or of none.
func (a address) checkKind() error {
	many := a.cluster || a.master != "" || len(a.hosts) > 1
	switch {
	case many && a.base.Scheme == "unix":
		return errors.New("a unix:// URL is of one server: " +
			"give the addresses of a Cluster or of Sentinels by redis://")
	case a.base.Scheme == "unix" && (a.base.Host != "" || strings.Trim(a.base.Path, "/") == ""):
		return errors.New("a unix:// URL has the path of a socket: unix:///run/redis.sock")
	case a.cluster && a.master != "":
		return errors.New("the URL of Redis names a master, as with Sentinels, " +
			"and a Cluster: leave one out")
	case many && !a.cluster && a.master == "":
		return errors.New("the URL of Redis has several hosts, which only a Cluster and Sentinels have")
	}
	return nil
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
	for i, host := range all {
		all[i] = strings.TrimSpace(host)
	}
	return all[1:], scheme + "://" + login + all[0] + path
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

// unreadable returns an error about a URL that url.Parse refused with err, without
// the URL, in which a password may be.
func unreadable(err error) error {
	var bad *url.Error
	var escape url.EscapeError
	why := ""
	switch {
	case errors.As(err, &escape):
		why = "a % is not followed by two hexadecimal digits: "
	case errors.As(err, &bad) && strings.Contains(bad.Err.Error(), "port"):
		why = "after the host comes a port, a number: "
	}
	return errors.New("the URL of Redis cannot be read: " + why + escapeAdvice)
}

var (
	unknownOption = regexp.MustCompile(`^redis: unexpected option: ([A-Za-z_]+(, [A-Za-z_]+)*)$`)
	badOption     = regexp.MustCompile(`^redis: invalid ([A-Za-z_]+) (number|duration|boolean)`)
)

// refused returns an error about a URL that go-redis refused with err. Of err it
// tells no more than the names of options, since a value may be a secret.
func refused(err error) error {
	text := err.Error()
	if strings.Contains(text, "database number") || strings.Contains(text, "URL path") {
		return errors.New("the path of a URL of Redis is the number of a database: " +
			"redis://localhost:6379/0")
	}
	if m := unknownOption.FindStringSubmatch(text); m != nil {
		return fmt.Errorf("the URL of Redis has options that are not known here: %s", m[1])
	}
	if m := badOption.FindStringSubmatch(text); m != nil {
		return fmt.Errorf("the option %s of the URL of Redis is not a %s", m[1], m[2])
	}
	return errors.New("the URL of Redis cannot be used: one of its hosts or options is wrong")
}
