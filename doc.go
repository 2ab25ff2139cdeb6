// Package warlock is sync.Mutex for many processes: a lock that the goroutines
// of every process with access to one Redis respect.
//
//	mu := warlock.NewMutex(client, "invoice:42", 10*time.Second)
//
//	mu.Lock()
//	defer mu.Unlock()
//
// A [Mutex] is used as a [sync.Mutex] is. Behind it stands a lease: the key in
// Redis expires after the ttl given, and is renewed until Unlock. A
// process or a machine that dies stops renewing, and the lock is free again
// after at most one ttl. A goroutine that dies, or gets stuck, does not: its process goes on
// renewing. Use [Mutex.Do], or defer Unlock, and [WithMaxHold].
//
// An [RWMutex] is used as a [sync.RWMutex] is: any number of readers in any number of
// processes, or one writer. It and a Mutex may be used on one key.
//
// A [Keyed] is one value for any number of them, a lock for each ID:
//
//	invoices := warlock.NewKeyed(client, "invoice:", 10*time.Second)
//
//	invoices.Lock("42")
//	defer invoices.Unlock("42")
//
// # What to know before use
//
// A lock is not reentrant: a goroutine that locks what it holds waits for
// itself.
//
// A Mutex, RWMutex or Keyed must not be copied after first use; go vet reports it.
//
// Leases end without the holder's doing: the process is stopped for longer than
// the ttl, or Redis cannot be reached to renew. [Lease.Context] is done by then,
// and [Mutex.Do] passes such a context to the work. But nothing can take back a write
// that is already on its way; for that there are fencing tokens.
//
// # Fencing tokens
//
// Each acquisition of a key has a number, [Lease.Fence], which is higher than that
// of all earlier ones. Send it along with each write to the storage that the lock
// protects, and let the storage refuse what comes with a lower number than it has
// seen. In SQL:
//
//	UPDATE invoice SET total = $1, fence = $2 WHERE id = 42 AND fence <= $2
//
// If no row was changed, a later holder has written: give up. So a holder that
// was stopped, lost its lease, and woke up does no harm. (The idea is from
// Gray and Cheriton's leases of 1989 as Chubby's sequencers, 2006, apply it; the name
// from Kleppmann's "How to do distributed locking", 2016.)
//
// # What is not promised
//
// A process paused past its ttl may believe for a moment, until it next looks at
// its lease, that it still holds the lock; and a machine that was suspended with its monotonic clock,
// until its next renewal. Who may write to this Redis can take any lock, and who may publish to its
// channels, warlock:mailbox:*, can tell a waiter of a grant that is none. An eviction policy other than
// noeviction may take a lock's key. A failover to a replica that
// had not received the lock's key loses the lock: two holders may
// then run at once, the later with the higher token. Tokens may fall only if a
// server's clock steps back by more than two minutes after the lock was last used,
// or by less where the last token was lost as well (FLUSHALL, eviction); or if a
// failover that loses the key leads to a server whose clock is further behind than
// the lock is old. A server whose clock leaps ahead ends leases before their
// holders know.
package warlock
