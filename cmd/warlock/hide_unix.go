//go:build unix

package main

import (
	"strings"
	"unsafe"
)

// hidePasswords returns a copy of args, and overwrites the URLs in args that have a
// password with x. On Unix the strings of os.Args are the memory that ps shows.
func hidePasswords(args []string) []string {
	kept := make([]string, len(args))
	for i, arg := range args {
		kept[i] = strings.Clone(arg)
	}
	for _, arg := range args {
		if arg == "--" { // what follows belongs to another command
			break
		}
		begin, end := secretPart(arg)
		bytes := unsafe.Slice(unsafe.StringData(arg), len(arg))
		for j := begin; j < end; j++ {
			bytes[j] = 'x'
		}
	}
	return kept
}

// secretPart returns where in arg a user and a password may be: in a URL up to its
// last @, or in all of it if it has an option with a password.
func secretPart(arg string) (begin, end int) {
	scheme := strings.Index(arg, "://")
	if scheme < 0 {
		return 0, 0
	}
	begin = scheme + len("://")
	if strings.Contains(arg[begin:], "password=") {
		return begin, len(arg)
	}
	return begin, max(begin, strings.LastIndex(arg, "@"))
}
