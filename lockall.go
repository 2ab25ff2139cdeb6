package warlock

import "context"

// LockAll locks all of ids for writing, each once however often it is given. It
// returns a function that unlocks them, which must be called once. That
// function treats a lost lease as [Keyed.Unlock] does, and panics when it is
// called again.
//
// If all ids are free, LockAll of up to 1024 ids is one round trip, and so is their
// unlock. On a cluster it is one for each server.
//
// If LockAll returns an error, it holds none of the ids. The error is one of
// [Keyed.LockContext]. LockAll returns within a second of the end of ctx. It
// releases in the background what it held if Redis does not answer by then.
//
// LockAll cannot deadlock with another LockAll, in whatever order their ids are
// given and whatever options their Keyeds have. While it waits for one id, it
// may hold others. With [WithoutRenewal] or [WithMaxHold] it lets the others go
// after a third of the time that their leases live. So it gets there even if
// one id is contended for longer.
func (k *Keyed) LockAll(ctx context.Context, ids ...string) (unlock func(), err error) {
	return k.table.LockAll(ctx, ids...)
}
