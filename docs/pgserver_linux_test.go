package docs_test

import (
	"os"
	"os/user"
	"strconv"
	"syscall"
	"testing"
)

// unprivileged lets a process run as the owner of dir. PostgreSQL refuses to run
// as root, so a test that is root's gives dir to another user. The kernel ends a
// server whose test was killed, and so cannot clean up.
func unprivileged(t *testing.T, dir string) *syscall.SysProcAttr {
	t.Helper()
	attr := &syscall.SysProcAttr{Pdeathsig: syscall.SIGQUIT}
	if os.Geteuid() != 0 {
		return attr
	}
	account, err := user.Lookup("postgres")
	if err != nil {
		account, err = user.Lookup("nobody")
	}
	fatalIf(t, err)
	uid, err := strconv.ParseUint(account.Uid, 10, 32)
	fatalIf(t, err)
	gid, err := strconv.ParseUint(account.Gid, 10, 32)
	fatalIf(t, err)
	fatalIf(t, os.Chown(dir, int(uid), int(gid)))
	attr.Credential = &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}
	return attr
}
