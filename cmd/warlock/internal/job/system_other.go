//go:build unix && !linux

package job

import (
	"os"
	"syscall"
)

// attributes returns how a command starts.
func attributes() *syscall.SysProcAttr { return new(syscall.SysProcAttr) }

// nameProcess does nothing: this system knows no such names.
func nameProcess(string) {}

// ownProgram returns the path of this process's program.
func ownProgram() (string, error) { return os.Executable() }

// groupLives reports whether a process of a group is left.
func groupLives(group int) bool { return syscall.Kill(-group, 0) != syscall.ESRCH }

// groupsOf returns nothing: they are not known.
func groupsOf(int, int) []int { return nil }

// strays returns nothing: they are not known.
func strays(int, []int) []int { return nil }

// parentOf returns 0: it is not known.
func parentOf(int) int { return 0 }
