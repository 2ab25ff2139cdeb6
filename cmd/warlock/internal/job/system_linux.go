package job

import (
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
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

// ownProgram returns the path of this process's program. It works, and is the same
// program, also when the file was deleted or replaced since.
func ownProgram() (string, error) {
	const path = "/proc/self/exe"
	if _, err := os.Stat(path); err != nil { // there is no /proc
		return os.Executable()
	}
	return path, nil
}

// A process is a line of the system's table of processes.
type process struct {
	pid, parent, group int
	runs               bool // and is no zombie
}

// processes returns the system's table of processes; nil: it cannot be read.
func processes() (all []process) {
	stats, _ := filepath.Glob("/proc/[0-9]*/stat")
	for _, path := range stats {
		stat, _ := os.ReadFile(path)
		name := strings.LastIndex(string(stat), ")")    // it may have spaces
		fields := strings.Fields(string(stat[name+1:])) // state, parent, group
		if len(fields) < 3 {
			continue
		}
		p := process{runs: fields[0] != "Z" && fields[0] != "X"}
		p.pid, _ = strconv.Atoi(filepath.Base(filepath.Dir(path)))
		p.parent, _ = strconv.Atoi(fields[1])
		p.group, _ = strconv.Atoi(fields[2])
		all = append(all, p)
	}
	return all
}

// groupLives reports whether a process of a group runs. A zombie does not: it may stay
// for ever, if the first process of a container reaps none.
func groupLives(group int) bool {
	if unix.Kill(-group, 0) == unix.ESRCH {
		return false
	}
	all := processes()
	return all == nil ||
		slices.ContainsFunc(all, func(p process) bool { return p.runs && p.group == group })
}

// groupsOf returns the groups that children of a process lead, apart from one child.
func groupsOf(parent, apart int) (groups []int) {
	for _, p := range processes() {
		if p.parent == parent && p.pid == p.group && p.pid != apart {
			groups = append(groups, p.pid)
		}
	}
	return groups
}

// strays returns the descendants of a group's processes, and of those in known, that
// have left the group, as those of timeout(1) do.
func strays(group int, known []int) (left []int) {
	all, found := processes(), make(map[int]bool)
	for _, pid := range known {
		found[pid] = true
	}
	within := make(map[int]bool)
	for before := -1; len(found)+len(within) > before; {
		before = len(found) + len(within)
		for _, p := range all {
			switch {
			case p.group == group:
				within[p.pid] = true
			case within[p.parent] || found[p.parent]:
				found[p.pid] = true
			}
		}
	}
	for _, p := range all {
		if p.runs && found[p.pid] {
			left = append(left, p.pid)
		}
	}
	return left
}

// parentOf returns the parent of a process, or 0.
func parentOf(pid int) int {
	for _, p := range processes() {
		if p.pid == pid {
			return p.parent
		}
	}
	return 0
}
