// Package job runs a command for as long as a lease allows.
//
// The command has a process group of its own, which signals are sent to. What holds
// for the group:
//
//  1. It has ended by the deadline of the lease. When the lease is lost, or is about
//     to run out, the group is told to end by SIGTERM, and killed before the
//     deadline.
//  2. It does not outlive this process. A guard, which is a process of its own, kills
//     it when this process is gone, and also at the deadline: this process may be
//     stopped.
//
// A process that leaves the group, as a daemon does, is outside of all this. On Linux,
// when the lease is lost, such processes end too if an ancestor of theirs is in the group
// then.
package job

import (
	"os"
	"time"
)

// A Command is what to run.
type Command struct {
	Path  string   // of the program
	Args  []string // its name and its arguments
	Env   []string
	Files [3]*os.File   // standard input, output and error
	Grace time.Duration // from SIGTERM to SIGKILL, if the lease's deadline leaves so much
}

// A Lease is for how long the command may run.
type Lease struct {
	TTL      time.Duration
	Deadline func() time.Time // until when it is valid if nothing renews it
	Lost     <-chan struct{}  // closed when it is lost
}

// An Outcome is how a command ended.
type Outcome struct {
	Status   int  // its exit status, or 128 + the signal that ended it
	Overtime bool // it was told to end because the lease was lost, or about to run out

	Interrupted bool // from the terminal
}
