//go:build programs

// The programs on the pages import these packages, so go.mod requires them. No
// test is built with this file.

package docs_test

import (
	_ "github.com/bsm/redislock"
	_ "github.com/go-redsync/redsync/v4/redis/goredis/v9"
	_ "github.com/redis/go-redis/v9"
	_ "github.com/redis/rueidis/rueidislock"
	_ "github.com/warlock-go/warlock"
	_ "modernc.org/sqlite"
)
