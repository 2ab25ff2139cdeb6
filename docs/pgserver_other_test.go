//go:build !linux

package docs_test

import (
	"syscall"
	"testing"
)

// unprivileged is for Linux. Elsewhere a test that is root's cannot start a
// PostgreSQL, and the server of a test that was killed goes on.
func unprivileged(*testing.T, string) *syscall.SysProcAttr { return nil }
