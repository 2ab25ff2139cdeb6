// Package warlock is sync.Mutex for many processes. The goroutines of every
// process with access to one Redis respect its locks.
//
//	mu := warlock.NewMutex(client, "invoice:42", 10*time.Second)
//
//	mu.Lock()
//	defer mu.Unlock()
//
// A [Mutex] is used like a [sync.Mutex]. Behind it stands a lease: a key in
// Redis that expires after the ttl. The process renews the lease until Unlock.
// A process or a machine that dies stops renewing, and the lock is free after
// at most 1 ttl. A goroutine that dies or gets stuck keeps the lock, since its
// process goes on renewing. Use [Mutex.Do] or defer Unlock against the first,
// and [WithMaxHold] against the second.
//
// An [RWMutex] is used like a [sync.RWMutex]: any number of readers in any
// number of processes hold it, or one writer does. An RWMutex and a Mutex can
// have the same key.
//
// A [Keyed] has a lock for each ID:
//
//	invoices := warlock.NewKeyed(client, "invoice:", 10*time.Second)
//
//	invoices.Lock("42")
//	defer invoices.Unlock("42")
//
// # What to know before use
//
// A lock is not reentrant: a goroutine that locks a lock that it holds waits
// for itself.
//
// A Mutex, an RWMutex and a Keyed must not be copied after first use. Go vet
// reports such a copy.
//
// A lease can end while the lock is held: its process was stopped for longer
// than the ttl, could not reach Redis to renew, or found the key deleted.
// [Lease.Context] ends with the lease, and [Mutex.Do] passes such a context to
// the work. But no lock can take back a write that is on its way. Fencing
// tokens are for that.
//
// # Fencing tokens
//
// Each acquisition of a key has a number, [Lease.Fence]. It is higher than the
// number of each earlier acquisition. Send it along with each write to the
// storage that the lock protects. Let the storage refuse a write whose number
// is lower than the highest that it has seen. In SQL, give each row a column
// for it:
//
//	CREATE TABLE invoice (
//		id    BIGINT PRIMARY KEY,
//		total BIGINT NOT NULL,
//		fence BIGINT NOT NULL DEFAULT 0
//	)
//
//	INSERT INTO invoice (id, total) VALUES (42, 0)
//
// The column must be NOT NULL: a comparison with NULL is never true, so a row
// whose fence is NULL would refuse every write. The column must be a BIGINT,
// since a token has up to 53 bits. Write like this:
//
//	result, err := db.ExecContext(ctx,
//		"UPDATE invoice SET total = $1, fence = $2 WHERE id = 42 AND fence <= $2",
//		total, lease.Fence())
//	if err != nil {
//		return err
//	}
//	rows, err := result.RowsAffected()
//	if err == nil && rows == 0 {
//		err = errStale // a later holder has written, or there is no such row
//	}
//	return err
//
// The database reports no error when the UPDATE changes no row: RowsAffected
// alone says that the write was refused. A holder that was stopped, lost its
// lease, and woke up then does no harm. (With MySQL, open the database with
// clientFoundRows=true. RowsAffected otherwise leaves out a row that has the
// same values already.)
//
// The idea comes from Gray and Cheriton's leases (1989) and Chubby's sequencers
// (Burrows, 2006). The name comes from Kleppmann's "How to do distributed
// locking" (2016).
//
// # What is not promised
//
// A process that is paused past its ttl can believe that it still holds the
// lock, until it next looks at its lease. So can a process on a machine that
// was suspended with its monotonic clock, until its next renewal.
//
// A user who may write to this Redis can take any lock. A user who may publish
// to its channels warlock:mailbox:* can tell a waiter that it has the lock when
// it does not.
//
// An eviction policy can remove a lock's key. Use noeviction.
//
// A failover to a replica that had not received the lock's key loses the lock.
// Two holders can then run at once. The later one has the higher token, except
// in the last of the following cases. [WithReplicas] makes that rare. A lock of
// [NewQuorumMutex] needs no failover.
//
// Tokens can fall in 3 cases:
//   - The server's clock steps back by more than 2 minutes after the lock was
//     last used.
//   - The server's clock steps back by less, and the last token was lost as
//     well, by FLUSHALL or eviction.
//   - A failover loses the key, and the new server's clock is further behind
//     than the lock is old.
//
// A server whose clock leaps ahead ends leases before their holders know.
package warlock
