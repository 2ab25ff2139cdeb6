//go:build unix && !linux

package job

import "syscall"

// attributes returns how a command starts.
func attributes() *syscall.SysProcAttr { return new(syscall.SysProcAttr) }

// nameProcess does nothing: this system knows no such names.
func nameProcess(string) {}
