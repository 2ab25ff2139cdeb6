//go:build programs

// The programs on the pages import these packages, so go.mod requires them. No
// test is built with this file.

package docs_test

import (
	_ "github.com/redis/go-redis/v9"
	_ "modernc.org/sqlite"
)
