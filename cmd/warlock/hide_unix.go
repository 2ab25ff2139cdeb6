//go:build unix

package main

import (
	"slices"
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
	for i, arg := range args {
		begin := strings.Index(arg, "://") + len("://")
		end := strings.LastIndex(arg, "@")
		if begin < len("://") || end < begin || slices.Contains(kept[:i], "--") {
			continue
		}
		bytes := unsafe.Slice(unsafe.StringData(arg), len(arg))
		for j := begin; j < end; j++ {
			bytes[j] = 'x'
		}
	}
	return kept
}
