package send

import (
	"context"

	"github.com/redis/go-redis/v9"
)

// A Joint is a script that serves several commands at once, each of which would
// run a script of its own. For each command it takes the first Keys of the
// command's keys. It takes Args arguments: the name of the command's Part, and
// the first arguments of the command, with empty ones behind them if there are
// too few.
//
// The reply is a number for each command: 0 if the script has not served the
// command, and else the reply to the command. It serves a command as if that
// had gone by itself, or not at all.
type Joint struct {
	Hash, Source any
	Keys, Args   int

	// Tag returns the part of a key by which a cluster chooses the key's slot.
	Tag func(key string) string
}

// A Part says how a Joint may serve a command.
type Part struct {
	Joint *Joint
	Name  any
}

// A parcel is a command as it goes to the server: that of one request, or the
// script that serves several.
type parcel struct {
	cmd      redis.Cmder
	requests []*request
	joint    *Joint // nil: cmd is the request's own
	loads    bool   // cmd brings the source of the joint
}

// parcels returns the parcels by which requests go to the server of l. Requests
// with parts go together where they can.
func (l *lane) parcels(requests []*request) (all []*parcel) {
	groups := make(map[group]*parcel)
	for _, r := range requests {
		g := l.groupOf(r)
		p := groups[g]
		if g == (group{}) || p == nil || len(p.requests) == maxBatch {
			p = &parcel{joint: g.joint}
			groups[g] = p
			all = append(all, p)
		}
		p.requests = append(p.requests, r)
	}
	for _, p := range all {
		if len(p.requests) == 1 {
			p.joint = nil
		}
	}
	return all
}

// A group is what requests have in common that go by one parcel. The zero group
// has nothing in common.
type group struct {
	joint *Joint
	tag   string
}

func (l *lane) groupOf(r *request) group {
	if r.way.Part == nil || l.apart.Load() {
		return group{}
	}
	if _, cluster := l.client.(*redis.ClusterClient); cluster {
		key, _ := r.cmd.Args()[FirstKey].(string)
		return group{r.way.Part.Joint, r.way.Part.Joint.Tag(key)}
	}
	return group{joint: r.way.Part.Joint}
}

// words returns the keys and the arguments of a request for the script.
func (j *Joint) words(r *request) (keys, args []any) {
	words := r.cmd.Args()
	own, _ := words[FirstKey-1].(int) // how many keys the command has
	first := FirstKey + own
	keys, args = words[FirstKey:FirstKey+j.Keys], make([]any, j.Args)
	args[0] = r.way.Part.Name
	for i := range args[1:] {
		args[i+1] = ""
		if first+i < len(words) {
			args[i+1] = words[first+i]
		}
	}
	return keys, args
}

// prepare makes the command of the script, or takes that of the one request.
func (p *parcel) prepare(ctx context.Context) redis.Cmder {
	switch {
	case p.joint == nil:
		p.cmd = unrepeated(p.requests[0].cmd)
	case p.loads:
		p.cmd = p.command(ctx, "eval", p.joint.Source)
	default:
		p.cmd = p.command(ctx, "evalsha", p.joint.Hash)
	}
	return p.cmd
}

func (p *parcel) command(ctx context.Context, name, script any) redis.Cmder {
	var keys, args []any
	for _, r := range p.requests {
		k, a := p.joint.words(r)
		keys, args = append(keys, k...), append(args, a...)
	}
	words := make([]any, 0, FirstKey+len(keys)+len(args))
	words = append(append(append(words, name, script, len(keys)), keys...), args...)
	cmd := redis.NewCmd(ctx, words...)
	cmd.SetFirstKeyPos(FirstKey)
	return Once(cmd)
}

// deal gives the requests their replies, once the command was answered or has
// failed. It returns the parcels that must be sent for requests which the script
// has not served.
func (p *parcel) deal(l *lane) (more []*parcel) {
	if p.joint == nil {
		return nil
	}
	err := p.cmd.Err()
	switch {
	case Lost(err):
		p.fail(err)
		return nil
	case err != nil && redis.HasErrorPrefix(err, "NOSCRIPT") && !p.loads:
		return []*parcel{{joint: p.joint, requests: p.requests, loads: true}}
	case refusesKeys(err):
		l.apart.Store(true)
	}
	replies, _ := p.cmd.(interface{ Val() any }).Val().([]any)
	for i, r := range p.requests {
		var reply int64
		if err == nil && len(replies) == len(p.requests) {
			reply, _ = replies[i].(int64)
		}
		if own, ok := r.cmd.(interface{ SetVal(any) }); ok && reply != 0 {
			own.SetVal(reply)
			continue
		}
		more = append(more, &parcel{requests: []*request{r}})
	}
	return more
}

// fail gives the parcel's command and its requests an error.
func (p *parcel) fail(err error) {
	p.cmd.SetErr(err)
	for _, r := range p.requests {
		r.cmd.SetErr(err)
	}
}

// refusesKeys reports whether a server, or a proxy before it, takes no script
// with the keys of several locks.
func refusesKeys(err error) bool {
	return err != nil &&
		(redis.HasErrorPrefix(err, "CROSSSLOT") || redis.HasErrorPrefix(err, "bad lua script"))
}
