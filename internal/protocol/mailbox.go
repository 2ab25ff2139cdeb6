package protocol

import (
	"context"
	"strconv"
	"strings"
)

// Channel returns the pub/sub channel of a mailbox: where the scripts tell a
// waiter, whose ID is the mailbox's name, a colon and a number, that it was
// granted the lock. (queue.lua has the other end of this.)
func Channel(mailbox string) string { return "warlock:mailbox:" + mailbox }

// A Notice tells a waiter that it was granted the lock, or, if its round and its token
// are 0, that it should ask again.
type Notice struct {
	ID    string
	Round int64  // the waiter's last that the server had seen; the lease began after it
	Token int64  // the fencing token
	Key   string // of the lock
}

// ParseNotice reads a message; ok is false if it is not a notice.
func ParseNotice(message string) (n Notice, ok bool) {
	var errs [2]error
	id, rest, _ := strings.Cut(message, " ")
	round, rest, _ := strings.Cut(rest, " ")
	token, key, _ := strings.Cut(rest, " ")
	n = Notice{ID: id, Key: key}
	n.Round, errs[0] = strconv.ParseInt(round, 10, 64)
	n.Token, errs[1] = strconv.ParseInt(token, 10, 64)
	return n, errs == [2]error{} && key != ""
}

const probePrefix = "probe "

// Probe sends the mailbox a message from where the releases of l come from. An error says
// that a release could not send it one either, or that no server answered.
func (l *Lock) Probe(ctx context.Context, mailbox string) error {
	_, err := l.run(ctx, repeatable, probeScript, Channel(mailbox))
	return err
}

// ParseProbe reads a message; ok is false if it is not from Probe. subscribers is how many
// the mailbox had on the server that sent it, and negative if that is not known.
func ParseProbe(message string) (subscribers int64, ok bool) {
	count, ok := strings.CutPrefix(message, probePrefix)
	if !ok {
		return 0, false
	}
	subscribers, err := strconv.ParseInt(count, 10, 64)
	return subscribers, err == nil
}
