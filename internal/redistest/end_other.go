//go:build !linux

package redistest

import "syscall"

// endWithTest is for the systems that can: elsewhere the server of a test that
// was killed goes on.
func endWithTest() *syscall.SysProcAttr { return nil }
