package judge

import (
	"slices"
	"testing"
)

// votes makes three servers a quorum. All of them get each request that was sent to one.
// They grant an op that queued the lock by a last request. The server with number 2 answers
// none of the ops that lack it.
func (b *builder) votes(lack ...*Op) {
	b.Servers = 3
	for _, o := range b.Ops {
		asked := slices.DeleteFunc(slices.Clone(b.Requests), func(q *Request) bool {
			return q.ID != o.ID || q.Script != Acquire
		})
		if o.granted() && !slices.ContainsFunc(asked, func(q *Request) bool { return q.Answer == Yes }) {
			b.asks(o, Acquire, int(o.Granted.Since(at(1)).Milliseconds()), Yes)
		}
	}
	for _, q := range slices.Clone(b.Requests) {
		for server := 1; server < b.Servers; server++ {
			again := *q
			again.Server = server
			lacks := func(o *Op) bool { return o.ID == q.ID }
			if server == 2 && slices.ContainsFunc(lack, lacks) {
				again.Answer, again.Queues = Unknown, false
			}
			b.Requests = append(b.Requests, &again)
		}
	}
}

// onServer adds a request of o to one server of a quorum.
func (b *builder) onServer(server int, o *Op, s Script, sent int, a Answer) {
	b.asks(o, s, sent, a).Server = server
}

// ofQuorums are made-up histories of quorums, by their names.
var ofQuorums = map[string]madeUp{
	"one after another, by a majority": {func(h *builder) {
		o := h.holds(0, 0, 1, 50, 10)
		h.votes(o, h.holds(1, 5, 51, 60, 20))
	}, nil},
	"two at once, as a minority was in trouble": {func(h *builder) {
		h.holds(0, 0, 1, 60, 10)
		h.holds(1, 5, 51, 70, 20)
		h.suffers(HitsMinority|LosesWaiters, everywhere, AllKeys, 0, 100)
		h.votes()
	}, []string{"model", "overlap"}},
	"a lock that one server granted": {func(h *builder) {
		h.holds(0, 0, 1, 50, 10)
		h.Servers = 3
	}, []string{"belief"}},
	"a deadline that a majority renewed": {func(h *builder) {
		o := h.holds(0, 0, 1, 50, 10)
		o.Checks[1].Deadline = at(1001)
		h.votes()
		h.onServer(0, o, Renew, 20, Yes)
		h.onServer(2, o, Renew, 30, Yes)
	}, nil},
	"a deadline that one server renewed": {func(h *builder) {
		o := h.holds(0, 0, 1, 50, 10)
		o.Checks[1].Deadline = at(1001)
		h.votes()
		h.onServer(0, o, Renew, 20, Yes)
	}, []string{"belief"}},
	"a lease that runs out, as one server alone renewed it": {func(h *builder) {
		o := h.holds(0, 0, 1, 0, 10)
		h.believes(o, 1, 900)
		o.Lost = at(980)
		h.suffers(DelaysMessages, 0, AllKeys, 100, 1200)
		h.asks(h.holds(1, 5, 1001, 1010, 20), Acquire, 700, No)
		h.votes()
		h.onServer(0, o, Renew, 500, Yes)
	}, nil},
	"a lease that two servers had renewed, and another has": {func(h *builder) {
		o := h.holds(0, 0, 1, 0, 10)
		h.believes(o, 1, 900)
		o.Lost = at(980)
		h.suffers(DelaysMessages, 0, AllKeys, 100, 1200)
		h.asks(h.holds(1, 5, 1001, 1010, 20), Acquire, 700, No)
		h.votes()
		h.onServer(0, o, Renew, 500, Yes)
		h.onServer(1, o, Renew, 500, Yes)
	}, []string{"model"}},
	"a lease that ran out, though a majority was well": {func(h *builder) {
		o := h.holds(0, 0, 1, 0, 10)
		h.believes(o, 1, 900)
		o.Lost = at(980)
		h.suffers(HitsMinority|LosesWaiters, everywhere, AllKeys, 100, 1200)
		h.asks(h.holds(1, 5, 1001, 1010, 20), Acquire, 700, No)
		h.votes()
	}, []string{"lost"}},
	"a lock that is idle, though a majority was well": {func(h *builder) {
		h.holds(0, 0, 1, 50, 10)
		h.suffers(HitsMinority|LosesWaiters, everywhere, AllKeys, 40, 60)
		h.asks(h.holds(1, 5, 600, 610, 20), Acquire, 300, No)
		h.votes()
	}, []string{"idle"}},
	"a lock that is idle until a waiter asks again": {func(h *builder) {
		h.holds(0, 0, 1, 50, 10)
		h.suffers(HitsMinority|LosesWaiters, everywhere, AllKeys, 40, 60)
		h.asks(h.holds(1, 5, 540, 550, 20), Acquire, 300, No)
		h.votes()
	}, nil},
	"a lock that is idle until it runs out on the servers that its holder could not reach": {func(h *builder) {
		h.holds(0, 0, 1, 50, 10)
		h.suffers(HitsMinority|HitsMinorities, everywhere, AllKeys, 40, 60)
		h.asks(h.holds(1, 5, 1500, 1510, 20), Acquire, 700, No)
		h.votes()
	}, nil},
	"a lease that is taken away, as a majority forgot": {func(h *builder) {
		o := h.holds(0, 0, 1, 0, 10)
		h.believes(o, 1, 100)
		o.Lost, o.Taken = at(110), true
		h.suffers(DelaysMessages|ForgetsVotes, everywhere, AllKeys, 50, 1200)
		h.asks(h.holds(1, 5, 1001, 1010, 20), Acquire, 700, No)
		h.votes()
	}, nil},
	"a lease that is taken away, as a minority forgot": {func(h *builder) {
		o := h.holds(0, 0, 1, 0, 10)
		h.believes(o, 1, 100)
		o.Lost, o.Taken = at(110), true
		h.suffers(HitsMinority|LosesWaiters, everywhere, AllKeys, 50, 1200)
		h.asks(h.holds(1, 5, 1001, 1010, 20), Acquire, 700, No)
		h.votes()
	}, []string{"early end"}},
	"a lock that another has before the lease that a majority forgot has run out": {func(h *builder) {
		h.believes(h.holds(0, 0, 1, 0, 10), 1, 900)
		h.suffers(DelaysMessages|ForgetsVotes, everywhere, AllKeys, 50, 1200)
		h.asks(h.holds(1, 5, 801, 810, 20), Acquire, 700, No)
		h.votes()
	}, []string{"model", "overlap"}},
	"a waiter that another passes": {func(h *builder) {
		h.holds(0, 0, 1, 200, 10)
		h.holds(2, 100, 201, 210, 20)
		h.votes(h.holds(1, 5, 211, 220, 30))
	}, []string{"order"}},
	"a waiter that another passes, which asked at about the same time": {func(h *builder) {
		h.holds(0, 0, 1, 200, 10)
		h.holds(2, 50, 201, 210, 20)
		h.holds(1, 5, 211, 220, 30)
		h.votes()
	}, nil},
	"a waiter in the queue of one server that another passes": {func(h *builder) {
		h.holds(0, 0, 1, 200, 10)
		h.holds(2, 100, 201, 210, 20)
		o := h.holds(1, 5, 211, 220, 30)
		h.votes()
		for _, q := range h.Requests {
			if q.ID == o.ID && q.Server > 0 && q.Sent == o.Called {
				q.Answer, q.Queues = Unknown, false
			}
		}
	}, nil},
}

// The judges find in histories of quorums what they are for, and no other judge finds
// anything.
func TestJudgesOfQuorums(t *testing.T) { testJudges(t, ofQuorums) }
