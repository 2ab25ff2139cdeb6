package protocol_test

import (
	"fmt"
	"regexp"
	"strings"
)

// A script is a source of Lua, or a part of one.
type script struct{ name, source string }

// A lexeme is a word, a string, a number or a sign of Lua.
type lexeme struct {
	text string
	at   string // the name of its script and its line
}

// lexemes finds them, and comments.
var lexemes = regexp.MustCompile(`(?s)--\[\[.*?\]\]|--[^\n]*|` +
	`'(?:\\.|[^'\\\n])*'|"(?:\\.|[^"\\\n])*"|\[\[.*?\]\]|` +
	`[A-Za-z_]\w*|\.\.\.?|\d[\w.]*|\S`)

func (s script) lex() (all []lexeme) {
	for _, span := range lexemes.FindAllStringIndex(s.source, -1) {
		text := s.source[span[0]:span[1]]
		if !strings.HasPrefix(text, "--") {
			line := 1 + strings.Count(s.source[:span[0]], "\n")
			all = append(all, lexeme{text, fmt.Sprintf("%s:%d", s.name, line)})
		}
	}
	return all
}

// unquoted returns the text of a string of Lua.
func (l lexeme) unquoted() (text string, ok bool) {
	if ok = strings.ContainsAny(l.text[:1], `'"`); ok {
		text = l.text[1 : len(l.text)-1]
	}
	return text, ok
}

// luaCheck goes over scripts.
type luaCheck struct {
	wrappers map[string]bool // functions that pass all their arguments on to redis.call
	used     map[string]bool // commands
	problems []string
}

// checkLua returns each call in scripts that the oldest server does not know,
// and the commands that the scripts use. A script may use functions of the
// others.
func checkLua(scripts ...script) (problems []string, used map[string]bool) {
	c := &luaCheck{wrappers: make(map[string]bool), used: make(map[string]bool)}
	for _, s := range scripts {
		c.findWrappers(s.lex())
	}
	for _, s := range scripts {
		if strings.HasPrefix(s.source, "#!") {
			c.problems = append(c.problems, s.name+" starts with #!, which is of Redis 7.0.0")
		}
		all := s.lex()
		for i := range all {
			c.look(all, i)
		}
	}
	return c.problems, c.used
}

// findWrappers notes functions of the form function name(...) that call
// redis.call(...) or redis.pcall(...).
func (c *luaCheck) findWrappers(all []lexeme) {
	for i := range all {
		for _, f := range []string{"call", "pcall"} {
			name := function(all, i)
			if name != "" && texts(all, i, "redis", ".", f, "(", "...", ")") {
				c.wrappers[name] = true
			}
		}
	}
}

// function returns the name of the last function of the form function name(...)
// that begins before i, unless another function begins after it.
func function(all []lexeme, i int) string {
	for ; i >= 0; i-- {
		switch {
		case texts(all, i, "function", "", "(", "...", ")"):
			return all[i+1].text
		case texts(all, i, "function"):
			return ""
		}
	}
	return ""
}

// texts reports whether the lexemes from i on are want, of which "" is any.
func texts(all []lexeme, i int, want ...string) bool {
	if i < 0 || i+len(want) > len(all) {
		return false
	}
	for n, text := range want {
		if text != "" && all[i+n].text != text {
			return false
		}
	}
	return true
}

// callAt returns where the arguments of a call of a command begin. It reports
// false if no such call begins at i.
func (c *luaCheck) callAt(all []lexeme, i int) (first int, ok bool) {
	switch {
	case texts(all, i, "redis", ".", "call", "("), texts(all, i, "redis", ".", "pcall", "("):
		return i + 4, true
	case c.wrappers[all[i].text] && texts(all, i+1, "(") && !texts(all, i-1, "function"):
		return i + 2, true
	}
	return 0, false
}

// look checks what begins at i.
func (c *luaCheck) look(all []lexeme, i int) {
	first, call := c.callAt(all, i)
	switch {
	case call:
		c.call(all, first)
	case all[i].text == "redis" && !texts(all, i-1, "."):
		c.problem(all[i], "redis is used other than by redis.call() and redis.pcall()")
	case c.wrappers[all[i].text] && !texts(all, i-1, "function"):
		c.problem(all[i], all[i].text+" is used other than by a call")
	case texts(all, i, "server", "."):
		c.problem(all[i], "server is not known to Redis")
	}
}

// call checks a call, whose arguments begin at first.
func (c *luaCheck) call(all []lexeme, first int) {
	if texts(all, first, "...", ")") && c.wrappers[function(all, first)] {
		return // the calls of the wrapper are looked at
	}
	name, ok := all[first].unquoted()
	if !ok || !texts(all, first+1, ",") && !texts(all, first+1, ")") {
		c.problem(all[first], "the command is no quoted word")
		return
	}
	c.used[strings.ToUpper(name)] = true
	for _, problem := range check(name, c.options(all, first+1)) {
		c.problem(all[first], problem)
	}
}

var optionWord = regexp.MustCompile(`^[A-Za-z]+$`)

// options returns the quoted words among the arguments of a call from i on. It
// leaves out parts of longer strings, and the arguments of calls inside the
// call.
func (c *luaCheck) options(all []lexeme, i int) (words []string) {
	for depth := 1; depth > 0 && i < len(all); i++ {
		if first, ok := c.callAt(all, i); ok {
			i = end(all, first)
			continue
		}
		depth += nesting(all[i])
		word, ok := all[i].unquoted()
		part := texts(all, i-1, "..") || texts(all, i+1, "..")
		if ok && !part && optionWord.MatchString(word) {
			words = append(words, strings.ToUpper(word))
		}
	}
	return words
}

// end returns where the parenthesis is closed inside which i is.
func end(all []lexeme, i int) int {
	for depth := 1; i < len(all); i++ {
		if depth += nesting(all[i]); depth == 0 {
			break
		}
	}
	return i
}

// nesting returns by how much the nesting after l is deeper than before.
func nesting(l lexeme) int {
	switch l.text {
	case "(", "{", "[":
		return 1
	case ")", "}", "]":
		return -1
	}
	return 0
}

func (c *luaCheck) problem(at lexeme, what string) {
	c.problems = append(c.problems, at.at+": "+what)
}
