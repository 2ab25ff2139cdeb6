package protocol

import (
	"strconv"
	"strings"
)

// Channel returns the pub/sub channel of a mailbox: where the scripts tell a
// waiter, whose ID is the mailbox's name, a colon and a number, that it was
// granted the lock. (queue.lua has the other end of this.)
func Channel(mailbox string) string { return "warlock:mailbox:" + mailbox }

// A Notice tells a waiter that it was granted the lock.
type Notice struct {
	ID    string
	Round int64 // the waiter's last that the server had seen; the lease began after it
	Token int64 // the fencing token
}

// ParseNotice reads a message; ok is false if it is none of the scripts'.
func ParseNotice(message string) (n Notice, ok bool) {
	id, rest, _ := strings.Cut(message, " ")
	round, token, _ := strings.Cut(rest, " ")
	var errs [2]error
	n.ID = id
	n.Round, errs[0] = strconv.ParseInt(round, 10, 64)
	n.Token, errs[1] = strconv.ParseInt(token, 10, 64)
	return n, errs == [2]error{}
}
