package send

import (
	"context"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/redis/go-redis/v9"
)

// Copies asks a server how many replicas have what a command wrote, by WAIT. It is the
// sender's while the command is under way, and the caller's again with the answer.
//
// WAIT goes in one packet with the command, on the same connection, behind it. So it
// costs no round trip, and the server answers as soon as enough replicas have the
// write. One WAIT serves all commands of a batch.
type Copies struct {
	Want   int           // for so many replicas
	Within time.Duration // the server waits at most

	have int64 // the replicas that have the write
	err  error // of WAIT
}

// Check returns nil if enough replicas have what the command wrote. Otherwise it
// returns a *FewCopies, or the server's error.
func (c *Copies) Check() error {
	switch {
	case c == nil:
		return nil
	case c.err != nil:
		return c.err
	case c.have < int64(c.Want):
		return &FewCopies{Have: c.have, Copies: *c}
	}
	return nil
}

// FewCopies is the error of a write that too few replicas have.
type FewCopies struct {
	Have int64
	Copies
}

func (f *FewCopies) Error() string {
	return fmt.Sprintf("%d of %d replicas have it within %v", f.Have, f.Want, f.Within)
}

// A waiting is a WAIT of a batch, and what it is for. The zero waiting is for nothing.
type waiting struct {
	cmd *redis.IntCmd
	all []*Copies
}

// waitFor adds a WAIT for all of copies to pipe, which has noted their commands.
func waitFor(ctx context.Context, pipe redis.Pipeliner, copies []*Copies) (w waiting) {
	want, within := 0, time.Duration(0)
	for _, c := range copies {
		want, within = max(want, c.Want), max(within, c.Within)
	}
	if want == 0 {
		return w
	}
	w.all = copies
	w.cmd = redis.NewIntCmd(ctx, "wait", want, within.Milliseconds())
	_ = pipe.Process(ctx, w.cmd) // only notes the command
	return w
}

// deal notes the answer.
func (w waiting) deal() {
	for _, c := range w.all {
		c.have, c.err = w.cmd.Val(), w.cmd.Err()
	}
}

// copiesOf returns the Copies of the requests in parcels.
func copiesOf(parcels []*parcel) (all []*Copies) {
	for _, p := range parcels {
		for _, r := range p.requests {
			if r.way.Copies != nil {
				all = append(all, r.way.Copies)
			}
		}
	}
	return all
}

// sendCopied sends cmd with a WAIT, to the server of its key. It follows cmd to the
// server that a cluster has moved the key to. (While a slot is being moved, no server
// carries out a script with several of its keys.)
func (d direct) sendCopied(ctx context.Context, cmd redis.Cmder, copies *Copies) {
	defer catch(cmd)
	cluster, ok := d.client.(*redis.ClusterClient)
	if !ok {
		pipeCopied(ctx, d.client.Pipeline(), cmd, copies)
		return
	}
	key, _ := cmd.Args()[FirstKey].(string)
	server, err := cluster.MasterForKey(ctx, key)
	const mostMoves = 3 // as a ClusterClient follows a command
	for moves := 0; ; moves++ {
		if err != nil {
			cmd.SetErr(err)
			return
		}
		cmd.SetErr(nil)
		pipeCopied(ctx, server.Pipeline(), cmd, copies)
		if moves == mostMoves || !wrongServer(cmd.Err()) {
			return
		}
		server, err = serverAfter(ctx, cluster, key, cmd.Err())
	}
}

// serverAfter returns the server to which a cluster's answer to a command for key
// leads: the one that the answer names, or else the master as the cluster says now.
func serverAfter(
	ctx context.Context, cluster *redis.ClusterClient, key string, answer error,
) (*redis.Client, error) {
	named, _ := redis.IsMovedError(answer)
	var found atomic.Pointer[redis.Client]
	err := cluster.ForEachMaster(ctx, func(_ context.Context, server *redis.Client) error {
		if server.Options().Addr == named {
			found.Store(server)
		}
		return nil
	}) // reads anew which servers there are
	if server := found.Load(); server != nil || err != nil {
		return server, err
	}
	return cluster.MasterForKey(ctx, key)
}

// pipeCopied sends cmd and a WAIT by pipe.
func pipeCopied(ctx context.Context, pipe redis.Pipeliner, cmd redis.Cmder, copies *Copies) {
	_ = pipe.Process(ctx, cmd) // only notes the command
	w := waitFor(ctx, pipe, []*Copies{copies})
	_, _ = pipe.Exec(ctx) // each command carries its error
	w.deal()
}
