package job

import (
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// attributes returns how a command starts. It is killed when the thread ends that
// starts it, which is with this process: the guard may have been killed as well.
func attributes() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
}

// nameProcess gives this process a name in lists of processes. A command that kills
// all that are named warlock does not kill the guard.
func nameProcess(name string) {
	comm := append([]byte(name), 0)
	_ = unix.Prctl(unix.PR_SET_NAME, uintptr(unsafe.Pointer(&comm[0])), 0, 0, 0)
}
