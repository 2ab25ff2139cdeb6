package protocol_test

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/warlock-go/warlock/internal/redistest"
)

// oldest is the oldest Redis that the library needs. Valkey 7.2 has all
// commands of Redis 7.2, so the library may use the commands of oldest there as
// well.
const oldest = "6.2.0"

// A command says which version of Redis brought it and its options.
type command struct {
	since    string
	options  map[string]string // the version of each; subcommands count as options
	together map[string]string // the version that allows two options in one call
}

// known has each command that the library may send, with all its options. Some
// options are too new, and the check says so. A command that is not in the
// table counts as too new.
//
// The commands that take several fields or members do so since Redis 4.0.
var known = map[string]command{
	"DEL":     {since: "1.0.0"},
	"EVAL":    {since: "2.6.0"},
	"EVALSHA": {since: "2.6.0"},
	"GET":     {since: "1.0.0"},
	"HDEL":    {since: "2.0.0"},
	"HGET":    {since: "2.0.0"},
	"HMGET":   {since: "2.0.0"},
	"HSET":    {since: "2.0.0"},
	"INFO": {
		since: "1.0.0", options: map[string]string{"SERVER": "1.0.0"},
		together: map[string]string{"": "7.0.0"}, // 2 sections: the table has no other
	},
	"PEXPIRE": {since: "2.6.0", options: map[string]string{
		"NX": "7.0.0", "XX": "7.0.0", "GT": "7.0.0", "LT": "7.0.0",
	}},
	"PTTL":    {since: "2.6.0"},
	"PUBLISH": {since: "2.0.0"},
	"PUBSUB":  {since: "2.8.0", options: map[string]string{"NUMSUB": "2.8.0"}},
	"SET": {
		since: "1.0.0",
		options: map[string]string{
			"EX": "2.6.12", "PX": "2.6.12", "NX": "2.6.12", "XX": "2.6.12",
			"KEEPTTL": "6.0.0", "GET": "6.2.0", "EXAT": "6.2.0", "PXAT": "6.2.0",
		},
		together: map[string]string{"GET NX": "7.0.0"},
	},
	"SCAN":      {since: "2.8.0", options: map[string]string{"MATCH": "2.8.0", "COUNT": "2.8.0"}},
	"SUBSCRIBE": {since: "2.0.0"},
	"TIME":      {since: "2.6.0"},
	"UNLINK":    {since: "4.0.0"},
	"WAIT":      {since: "3.0.0"},
	"ZADD": {since: "1.2.0", options: map[string]string{
		"NX": "3.0.2", "XX": "3.0.2", "CH": "3.0.2", "INCR": "3.0.2", "GT": "6.2.0", "LT": "6.2.0",
	}},
	"ZCARD":  {since: "1.2.0"},
	"ZCOUNT": {since: "2.0.0"},
	"ZRANGE": {since: "1.2.0", options: map[string]string{
		"WITHSCORES": "1.2.0",
		"BYSCORE":    "6.2.0", "BYLEX": "6.2.0", "REV": "6.2.0", "LIMIT": "6.2.0",
	}},
	"ZRANGEBYSCORE": {since: "1.0.5", options: map[string]string{
		"WITHSCORES": "2.0.0", "LIMIT": "1.0.5",
	}},
	"ZREVRANGEBYSCORE": {since: "2.2.0", options: map[string]string{
		"WITHSCORES": "2.2.0", "LIMIT": "2.2.0",
	}},
	"ZRANK":  {since: "2.0.0", options: map[string]string{"WITHSCORE": "7.2.0"}},
	"ZREM":   {since: "1.2.0"},
	"ZSCORE": {since: "1.2.0"},
}

// sends has the functions of go-redis that the library uses and that may send a
// command, with the command. "" is for a function that sends what it was given.
var sends = map[string]string{
	"NewCmd":         "",
	"NewIntCmd":      "WAIT",
	"Process":        "",
	"Exec":           "",
	"MasterForKey":   "", // go-redis asks for a cluster's layout by itself, too
	"ReloadState":    "", // likewise
	"ForEachMaster":  "", // likewise
	"Scan":           "SCAN",
	"Subscribe":      "SUBSCRIBE",
	"ReceiveTimeout": "SUBSCRIBE", // on a new connection
}

// Redis 6.2 and Valkey 7.2 are enough: the library uses no command and no
// option that is newer, in its scripts and in its Go code. The test does not
// look at the commands that go-redis itself sends on a new connection.
func TestNoCommandIsNewerThanRedis62(t *testing.T) {
	shipped := list(t, "../..")
	var scripts []script
	for _, p := range shipped.own {
		for _, name := range p.EmbedFiles {
			if filepath.Ext(name) != ".lua" {
				continue
			}
			source, err := os.ReadFile(filepath.Join(p.Dir, name))
			if err != nil {
				t.Fatal(err)
			}
			scripts = append(scripts, script{name, string(source)})
		}
		found, problems := shipped.checkGo(t, p)
		scripts = append(scripts, found...)
		for _, problem := range problems {
			t.Error(problem)
		}
	}
	problems, used := checkLua(scripts...)
	for _, problem := range problems {
		t.Error(problem)
	}
	for _, name := range []string{"SET", "PUBSUB", "HDEL"} { // HDEL is called by lenient alone
		if !used[name] {
			t.Errorf("the check found no use of %s in %d scripts", name, len(scripts))
		}
	}
}

// tryWrapper is a function of Lua that passes its arguments on.
const tryWrapper = "local function try(...)\n  return redis.pcall(...)\nend\n"

// scriptCases has scripts, and a part of what the check says of each script.
// The check says nothing where it is "".
var scriptCases = []struct{ source, says string }{
	{"redis.call('SET', KEYS[1], ARGV[1], 'NX', 'PX', 5)", ""},
	{"redis.call('set', KEYS[1], 'a b', 'nx')", ""},
	{"redis.call('ZRANGEBYSCORE', K, '-inf', '(' .. n, 'LIMIT', 0, 1)", ""},
	{"-- redis.call('ZMPOP', 1)\nredis.call('DEL', 'redis.call(')", ""},
	{"--[[ redis.call('ZMPOP') ]] redis.call('GET', 'a-b')", ""},
	{"redis.call('DEL', redis.call('SET', KEYS[1], 'X1', 'GET'))", ""},
	{tryWrapper + "try('DEL', KEYS[1])", ""},

	{`redis.call("ZMPOP", 1, KEYS[1], "MIN")`, "ZMPOP is not in the table"},
	{"redis.call('DEL', redis.call('ZMPOP', 1, K, 'MIN'))", "ZMPOP is not in the table"},
	{"local r = [[redis.call]] -- '\nredis.call('ZED')", "script:2: ZED is not in the table"},
	{"redis.call('SET', K, V, 'IFEQ', W)", "SET IFEQ is not in the table"},
	{"redis.call('PUBSUB', 'SHARDNUMSUB', C)", "PUBSUB SHARDNUMSUB is not in the table"},

	{"redis.call('PEXPIRE', KEYS[1], 5, 'GT')", "PEXPIRE GT is of Redis 7.0.0"},
	{"redis.pcall('pexpire', KEYS[1], 5, 'gt')", "PEXPIRE GT is of Redis 7.0.0"},
	{"redis.call('PEXPIRE', K, f(1, {2}), up and 'GT' or 'LT')", "PEXPIRE LT is of Redis 7.0.0"},
	{tryWrapper + "try('PEXPIRE', KEYS[1], 5, 'GT')", "script:4: PEXPIRE GT is of Redis 7.0.0"},
	{"redis.call('SET', K, V, 'NX', 'PX', 5, 'GET')", "SET GET NX is of Redis 7.0.0"},
	{"redis.call('ZRANK', K, V, 'WITHSCORE')", "ZRANK WITHSCORE is of Redis 7.2.0"},
	{"#!lua flags=no-writes\nreturn redis.call('GET', K)", "starts with #!"},

	{"redis.call(name, KEYS[1])", "the command is no quoted word"},
	{"redis.call('ZM' .. 'POP', 1)", "the command is no quoted word"},
	{"redis.call(...)", "the command is no quoted word"},
	{tryWrapper + "local f = function(...) return redis.call(...) end",
		"the command is no quoted word"},
	{tryWrapper + "local alias = try\nalias('ZMPOP')", "try is used other than by a call"},
	{"local call = redis.call\ncall('ZMPOP')", "redis is used other than by"},
	{"redis['call']('ZMPOP')", "redis is used other than by"},
	{"redis.acl_check_cmd('GET', KEYS[1])", "redis is used other than by"},
	{"server.call('GET', KEYS[1])", "server is not known to Redis"},
}

// The check of scripts finds each command and each option that is too new, and
// each call that hides one.
func TestCheckOfScripts(t *testing.T) {
	for _, c := range scriptCases {
		problems, _ := checkLua(script{"script", c.source})
		compare(t, c.source, problems, c.says)
	}
}

// compare fails the test unless the problems of source contain want. If want is
// "", there must be none.
func compare(t *testing.T, source string, problems []string, want string) {
	t.Helper()
	got := strings.Join(problems, "\n")
	if (got == "") != (want == "") || !strings.Contains(got, want) {
		t.Errorf("the check says of\n%s\n%q, want %q", source, got, want)
	}
}

// goCases has Go code, and a part of what the check says of it. The check says
// nothing where it is "".
var goCases = []struct{ source, says string }{
	{`func f(c redis.UniversalClient) { c.Subscribe(nil, "a") }`, ""},
	{`func command(_ context.Context, name string) { redis.NewCmd(nil, name) }`, ""},
	{`func command(_ context.Context, name string) {}
	func f() { command(nil, "eval") }`, ""},

	{`func f(c redis.UniversalClient) { c.ZMPop(nil, "min", 1, "a") }`, "ZMPop may send a command"},
	{`func f(c *redis.Client) any { return c.ZMPop }`, "ZMPop may send a command"},
	{`func f(c redis.Pipeliner) { c.Do(nil, "ZMPOP") }`, "Do may send a command"},
	{`func f() { redis.NewScript("").Run(nil, nil, nil) }`, "Run may send a command"},
	{`func f() { redis.NewCmd(nil, "ZMPOP") }`, "NewCmd is called outside of command"},
	{`func command(_ context.Context, name string) {}
	func f() { command(nil, "fcall") }`, "FCALL is not in the table"},
	{`func command(_ context.Context, name string) {}
	func f(name string) { command(nil, name) }`, "the command is no constant"},
}

// The check of Go code finds each command that is too new, and each function of
// go-redis that may send one.
func TestCheckOfGo(t *testing.T) {
	const before = `package p
	import ("context"; "github.com/redis/go-redis/v9")
	var _ context.Context
	var _ redis.Cmder
	`
	shipped := list(t, "../..")
	for _, c := range goCases {
		p := pack{ImportPath: "p", Dir: t.TempDir(), GoFiles: []string{"p.go"}}
		file := filepath.Join(p.Dir, p.GoFiles[0])
		if err := os.WriteFile(file, []byte(before+c.source), 0o600); err != nil {
			t.Fatal(err)
		}
		_, problems := shipped.checkGo(t, p)
		compare(t, c.source, problems, c.says)
	}
}

// The table of commands agrees with the docs of commands that the server has.
func TestVersionsOfCommands(t *testing.T) {
	s := redistest.Start(t)
	for name, c := range known {
		docs, ok := s.Do("COMMAND", "DOCS", name).(map[any]any)[strings.ToLower(name)].(map[any]any)
		if !ok {
			t.Errorf("the server knows no %s", name)
			continue
		}
		c.agrees(t, name, docs)
	}
}

// agrees fails the test unless c agrees with docs, which are a server's docs of
// the command of that name.
func (c command) agrees(t *testing.T, name string, docs map[any]any) {
	t.Helper()
	if docs["since"] != c.since {
		t.Errorf("%s is of Redis %v, and the table says %s", name, docs["since"], c.since)
	}
	for option, since := range documented(docs) {
		if says, ok := c.options[option]; ok && says != since {
			t.Errorf("%s %s is of Redis %s, and the table says %s", name, option, since, says)
		}
	}
	for _, change := range changes(docs) {
		if newer(change.since, oldest) && !c.foresees(change.words) {
			t.Errorf("the table lacks %s %q of Redis %s", name, change.words, change.since)
		}
	}
}

// documented returns the options and the subcommands of a command, with the
// versions in its docs. It leaves out options for which the docs have no
// version.
func documented(docs map[any]any) map[string]string {
	found := make(map[string]string)
	addOptions(found, docs, "")
	subcommands, _ := docs["subcommands"].(map[any]any)
	for name, sub := range subcommands {
		_, word, _ := strings.Cut(strings.ToUpper(name.(string)), "|")
		found[word] = sub.(map[any]any)["since"].(string)
	}
	return found
}

// addOptions adds the arguments in docs that are quoted words. An argument
// without a version has that of the argument of which it is a part, which is
// since.
func addOptions(found map[string]string, docs map[any]any, since string) {
	arguments, _ := docs["arguments"].([]any)
	for _, a := range arguments {
		argument := a.(map[any]any)
		version, ok := argument["since"].(string)
		if !ok {
			version = since
		}
		if word, ok := argument["token"].(string); ok && version != "" {
			found[word] = version
		}
		addOptions(found, argument, version)
	}
}

// A change of a command is an entry in its history.
type change struct {
	since string
	words []string // the options that it names, sorted
}

var quotedWord = regexp.MustCompile("`([A-Z]+)`")

func changes(docs map[any]any) (all []change) {
	history, _ := docs["history"].([]any)
	for _, entry := range history {
		e := entry.([]any)
		c := change{since: e[0].(string)}
		for _, m := range quotedWord.FindAllStringSubmatch(e[1].(string), -1) {
			c.words = append(c.words, m[1])
		}
		slices.Sort(c.words)
		all = append(all, c)
	}
	return all
}

// foresees reports whether the check fails on a use of a change that is too
// new. The docs of the change name the options in words.
func (c command) foresees(words []string) bool {
	if newer(c.together[strings.Join(words, " ")], oldest) {
		return true
	}
	for _, word := range words {
		if since, ok := c.options[word]; ok && !newer(since, oldest) {
			return false
		}
	}
	return len(words) > 0
}

// newer reports whether version a is newer than b. No version is older than "".
func newer(a, b string) bool {
	return slices.Compare(numbers(a), numbers(b)) > 0
}

func numbers(version string) (all []int) {
	for part := range strings.SplitSeq(version, ".") {
		n, _ := strconv.Atoi(part) // the table and the server have nothing but numbers
		all = append(all, n)
	}
	return all
}

// check returns why the oldest server does not know a command with options.
func check(name string, options []string) (problems []string) {
	name = strings.ToUpper(name)
	c, ok := known[name]
	if !ok {
		return []string{name + " is not in the table of commands"}
	}
	tooNew := func(what, since string) {
		if newer(since, oldest) {
			problems = append(problems,
				fmt.Sprintf("%s %s is of Redis %s, newer than %s", name, what, since, oldest))
		}
	}
	tooNew("itself", c.since)
	for i, a := range options {
		since, ok := c.options[a]
		if !ok {
			problems = append(problems, name+" "+a+" is not in the table of commands")
		}
		tooNew(a, since)
		for _, b := range options[i+1:] {
			pair := min(a, b) + " " + max(a, b)
			tooNew(pair, c.together[pair])
		}
	}
	return problems
}
