package protocol

import (
	"context"
	"strconv"
	"strings"

	"github.com/warlock-go/warlock/internal/send"
)

// Channel returns the pub/sub channel of a mailbox. The scripts publish notices
// there (see waiters.lua). They know the channel from a waiter's ID: the name of
// its mailbox, a colon and a number.
func Channel(mailbox string) string { return "warlock:mailbox:" + mailbox }

// A Notice tells a waiter that it was granted the lock. If Round and Token are
// 0, it tells the waiter to ask again, and a holder that others wait. If Round is
// 0 and Token is 1, it asks a holder whether it has the lock in use.
type Notice struct {
	ID    string
	Round int64  // of the last request that the server had; the lease began later
	Token int64  // the fencing token
	Key   string // of the lock
}

// ParseNotice parses a message. ok is false if the message is not a notice.
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

// Probe sends the mailbox a message by the server that would send it the
// notices of l. An error says that this server could send no notice either, or
// that no server answered.
func (l *Lock) Probe(ctx context.Context, mailbox string) error {
	_, err := l.runKeys(ctx, repeatable, probeScript, send.Way{}, l.keys[:1], []any{Channel(mailbox)})
	return err
}

// ParseProbe parses a message. ok is false if Probe did not send it.
// subscribers is how many subscribers of the mailbox the server had, and
// negative if that is not known.
func ParseProbe(message string) (subscribers int64, ok bool) {
	count, ok := strings.CutPrefix(message, probePrefix)
	if !ok {
		return 0, false
	}
	subscribers, err := strconv.ParseInt(count, 10, 64)
	return subscribers, err == nil
}
