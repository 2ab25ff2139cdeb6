package sim

import (
	"cmp"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/warlock-go/warlock"
	"github.com/warlock-go/warlock/chaos/judge"
)

// In some runs the servers are one quorum: each lock is on all of them. At any time the
// faults of such a run hit a minority of the servers. They excuse no lease that is lost,
// no overlap and no token, and no lock that is idle for long.
//
// Only servers that are down, and servers that are frozen, may be a majority: nothing is
// lost by that, and all waits. What a fault leaves behind lasts for longer than the fault,
// for example a server that may not vote. So the faults of several servers may be felt by
// a majority. That excuses delays, and nothing else: see felt.

// drawQuorum makes p the plan of a quorum, for a share of the seeds. It is drawn last, so
// that other seeds have the same plans as without it.
func (p *Plan) drawQuorum() {
	r := rand.New(rand.NewPCG(p.Seed, 7))
	if r.IntN(quorumsOneOf) != 0 {
		return
	}
	p.Quorum, p.Sites = true, [...]int{3, 3, 5}[r.IntN(3)]
	p.RunIDs, p.Persistent = r.IntN(2) == 0, r.IntN(5) == 0
	p.Reads, p.Releases, p.Replicas, p.Durable = 0, 0, false, false
	if p.span() < 2*p.TTL { // too short for what faults leave behind
		p.Ops *= 2
	}
	p.Faults = nil
	if r.IntN(8) > 0 {
		p.Faults = p.drawQuorumFaults(r)
	}
}

// quorumsOneOf is of how many seeds one has a quorum.
const quorumsOneOf = 5

// drawQuorumFaults draws the faults of a run with a quorum.
func (p *Plan) drawQuorumFaults(r *rand.Rand) (faults []Fault) {
	const shapes = 8
	switch shape := r.IntN(shapes); {
	case shape < 3:
		faults = p.drawMinority(r)
	case shape < 6:
		faults = p.drawTurns(r)
	case shape < 7:
		faults = p.drawMajority(r)
	}
	if r.IntN(2) == 0 {
		for range 1 + r.IntN(3) {
			faults = append(faults, p.drawLinkFault(r))
		}
	}
	return faults
}

// servers returns how many servers a quorum has; 0: there is none.
func (p *Plan) servers() int {
	if p.Quorum {
		return p.Sites
	}
	return 0
}

// minority returns how many servers are the largest minority.
func (p *Plan) minority() int { return (p.Sites - 1) / 2 }

// drawMinority draws faults that all hit the same minority of the servers, at any times.
// Only here do clocks leap: if a server's clock leaps, it is of no use for up to a minute.
// A server that forgets when the leases on it end must not have its clock leap as well.
func (p *Plan) drawMinority(r *rand.Rand) (faults []Fault) {
	sites := r.Perm(p.Sites)[:1+r.IntN(p.minority())]
	leaps := make(map[int]bool) // by site
	for _, site := range sites {
		leaps[site] = r.IntN(3) == 0
	}
	for range 1 + r.IntN(6) {
		site := sites[r.IntN(len(sites))]
		f := p.drawSiteFault(r, site, func(k Kind) bool {
			return k != Jump && !leaps[site] || leaps[site] && !k.forgets(p)
		})
		faults = append(faults, f)
	}
	return withoutLeapsInLeaps(faults)
}

// withoutLeapsInLeaps removes each leap of a clock that begins before an earlier one of
// the same clock has ended.
func withoutLeapsInLeaps(faults []Fault) (kept []Fault) {
	slices.SortStableFunc(faults, func(a, b Fault) int { return cmp.Compare(a.At, b.At) })
	ends := make(map[int]time.Duration) // by site
	for _, f := range faults {
		if f.Kind == Jump {
			if f.At < ends[f.Site] {
				continue
			}
			ends[f.Site] = f.At + f.For + longestLeapDelay
		}
		kept = append(kept, f)
	}
	return kept
}

// drawTurns draws faults of changing servers. At any time they hit a minority, and a
// server is well for a ttl before another has its turn.
func (p *Plan) drawTurns(r *rand.Rand) (faults []Fault) {
	for range 2 + r.IntN(8) {
		f := p.drawSiteFault(r, r.IntN(p.Sites), func(k Kind) bool { return k != Jump })
		if p.mostAtOnce(append(faults, f), p.spacing) <= p.minority() {
			faults = append(faults, f)
		}
	}
	return faults
}

// spacing returns for how long after a fault its server must be well before another has
// its turn. A server that does not tell its run ID cannot tell that all servers have
// forgotten from that they are new. So no majority of them may forget while a lease lives.
func (p *Plan) spacing(f Fault) time.Duration {
	if f.Kind.forgets(p) && !p.RunIDs {
		return p.longestLease() + p.TTL/2
	}
	return p.TTL
}

// longestLease returns how long a lease lives at most after its last renewal: a holder
// may extend it by so much.
func (p *Plan) longestLease() time.Duration { return max(2*p.TTL, p.TTL+p.MinHold) }

// drawMajority draws servers that are down or frozen together: a majority, or all.
func (p *Plan) drawMajority(r *rand.Rand) (faults []Fault) {
	kind := [...]Kind{Restart, Freeze}[r.IntN(2)]
	at := time.Duration(r.Int64N(int64(p.span())))
	n := p.minority() + 1
	for _, site := range r.Perm(p.Sites)[:n+r.IntN(p.Sites-n+1)] {
		faults = append(faults, Fault{
			Kind: kind, Site: site, At: at + time.Duration(r.Int64N(int64(p.TTL/2))),
			For: p.TTL/2 + time.Duration(r.Int64N(int64(2*p.TTL))),
		})
	}
	return faults
}

// quorumWeights are the weights of the kinds of faults of one server.
var quorumWeights = [kindsOfFaults]int{
	Lossy: 3, Slow: 3, Deaf: 1, Cut: 1, Restart: 2, Forget: 6, Flush: 1, ReadOnly: 1,
	Loading: 1, OutOfRoom: 1, Jump: 4, Freeze: 4, Part: 4, Revert: 3,
}

// drawSiteFault draws a fault of a server, of a kind that fits.
func (p *Plan) drawSiteFault(r *rand.Rand, site int, fits func(Kind) bool) Fault {
	total := 0
	for _, w := range quorumWeights {
		total += w
	}
	f := Fault{Site: site}
	for found := false; !found; {
		x := r.IntN(total)
		for k, w := range quorumWeights {
			if x -= w; x < 0 {
				f.Kind = Kind(k)
				break
			}
		}
		never := f.Kind == Revert && !p.RunIDs || p.Persistent && f.Kind.loses()
		found = !never && fits(f.Kind)
	}
	f.At = time.Duration(r.Int64N(int64(p.span())))
	f.For = p.drawLength(r, f.Kind)
	f.Slot, f.AtSite = AllSlots, kinds[f.Kind].hits == oneProcess
	if f.AtSite && r.IntN(2) == 0 {
		f.Slot = r.IntN(p.Processes)
	}
	switch f.Kind {
	case Jump:
		f.By = drawLeap(r)
	case Revert:
		f.By = -time.Duration(r.Int64N(int64(p.TTL)))
	}
	return f
}

// drawLength draws how long a fault of a server lasts. Some last for longer than leases.
func (p *Plan) drawLength(r *rand.Rand, k Kind) time.Duration {
	longest := kinds[k].longest
	switch {
	case longest == 0:
		return 0
	case r.IntN(3) == 0:
		longest = 3 * p.TTL
	default:
		longest = min(longest, p.TTL)
	}
	return time.Duration(r.Int64N(int64(longest)))
}

// drawLeap draws how far a clock leaps: by less than a minute, or by about a lease. The
// last token outlives a lease by two minutes.
func drawLeap(r *rand.Rand) time.Duration {
	longest := [...]time.Duration{3 * time.Second, time.Minute}[r.IntN(2)]
	return time.Duration(r.Int64N(int64(2*longest))) - longest
}

// drawLinkFault draws a fault of a process.
func (p *Plan) drawLinkFault(r *rand.Rand) Fault {
	k := [...]Kind{Crash, Crash, Pause, Pause, Lossy, Slow, Deaf, Cut}[r.IntN(8)]
	f := Fault{Kind: k, Slot: r.IntN(p.Processes)}
	f.At = time.Duration(r.Int64N(int64(p.span())))
	if longest := kinds[k].longest; longest > 0 {
		f.For = time.Duration(r.Int64N(int64(longest)))
	}
	f.Others = k == Pause && r.IntN(2) == 0
	return f
}

// loses reports whether a server loses data that it has told a client of.
func (k Kind) loses() bool { return k == Forget || k == Revert }

// forgets reports whether a server may not vote after a fault of the kind: it has lost
// data, or cannot say that it has not.
func (k Kind) forgets(p *Plan) bool {
	return k.loses() || k == Restart && p.RunIDs && !p.Persistent
}

// ofServer reports whether a fault hits a server, or the links to it.
func (f Fault) ofServer() bool { return kinds[f.Kind].hits == oneSite || f.AtSite }

// mostAtOnce returns how many servers faults hit at once, at most. A fault is felt for
// some time after its end.
func (p *Plan) mostAtOnce(faults []Fault, felt func(Fault) time.Duration) (most int) {
	for _, f := range faults {
		hit := make(map[int]bool)
		for _, g := range faults {
			if g.ofServer() && g.At <= f.At && f.At <= g.At+g.For+felt(g) {
				hit[g.Site] = true
			}
		}
		most = max(most, len(hit))
	}
	return most
}

// aftermath returns for how long after its end a fault of a server may be felt, and at
// least as long as the server's votes may be missing by it.
func (p *Plan) aftermath(f Fault) time.Duration {
	const noticed = time.Second // a client has a new connection by then
	switch {
	case f.Kind == Flush || f.Kind == Deaf:
		return 0
	case f.Kind == Jump: // what dead holders have on it stays for as long as it was off
		return time.Hour
	case f.Kind.forgets(p):
		return p.longestLease() + noticed
	case f.Kind == Lossy: // a stray may be granted the lock, which nobody then gives back
		return longestStray + p.longestLease() + noticed
	}
	return p.longestLease() + noticed
}

// A span is a time of a run.
type span struct{ from, to time.Duration }

// felt returns when a majority of the servers may feel faults.
func (p *Plan) felt() (spans []span) {
	for _, f := range p.Faults {
		if p.hitAt(f.At) <= p.minority() || !f.ofServer() {
			continue
		}
		end := f.At
		for _, g := range p.Faults { // it may end earlier, which only excuses more
			if g.ofServer() && g.At <= f.At && f.At <= g.At+g.For+p.aftermath(g) {
				end = max(end, g.At+g.For+p.aftermath(g))
			}
		}
		spans = append(spans, span{f.At, end})
	}
	return spans
}

// hitAt returns how many servers feel a fault at a time.
func (p *Plan) hitAt(at time.Duration) int {
	hit := make(map[int]bool)
	for _, g := range p.Faults {
		if g.ofServer() && g.At <= at && at <= g.At+g.For+p.aftermath(g) {
			hit[g.Site] = true
		}
	}
	return len(hit)
}

// addFelt notes the times at which a majority of the servers may feel faults. All that
// they do then is late.
func (w *world) addFelt() {
	if !w.plan.Quorum {
		return
	}
	for _, s := range w.plan.felt() {
		w.addFault(&judge.Fault{
			Name: "felt by a majority", Start: w.instant(w.began.Add(s.from)),
			End: w.instant(w.began.Add(s.to)), Key: judge.AllKeys, Effects: judge.DelaysMessages,
		})
	}
}

// makeQuorumLocks makes the locks of a process of a run with a quorum, all over all
// clients.
func (p *process) makeQuorumLocks() {
	var clients []redis.UniversalClient
	for _, c := range p.clients {
		clients = append(clients, c)
	}
	ttl := p.plan.TTL
	k := warlock.NewQuorumKeyed(clients, prefix, ttl, p.options()...)
	p.keyed = []*warlock.Keyed{k}
	for key, name := range p.keys {
		if key%3 == 0 {
			p.locks = append(p.locks, warlock.NewQuorumMutex(clients, name, ttl, p.options()...))
		} else {
			p.locks = append(p.locks, name[len(prefix):])
		}
	}
}

// heardSites returns of how many servers the process hears messages.
func (p *process) heardSites() (n int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, links := range p.heard {
		if links > 0 {
			n++
		}
	}
	return n
}

// quorumEffects returns the effects of a fault in a run with a quorum.
func (p *Plan) quorumEffects(f Fault) judge.Effects {
	switch {
	case !f.ofServer():
		return kinds[f.Kind].effects
	case f.Kind == Jump || f.Kind.forgets(p):
		return judge.HitsMinority | judge.LosesWaiters
	}
	return judge.HitsMinority
}

// A clock that leaps forward ends leases on its server at once, and nobody can see that.
// A lease on no more than a majority of the servers is lost by it. So a clock leaps only
// when each lock that its server has granted is also on a majority of the others, for at
// least as long. Then a leap must not do any harm. Until then, the leap waits.
const (
	longestLeapDelay = 3 * time.Second
	leapEvery        = time.Millisecond
)

// leap lets the clock of a server leap when it may, and then calls then.
func (w *world) leap(s *server, to time.Duration, then func()) {
	w.leapBefore(time.Now().Add(longestLeapDelay), s, to, then)
}

func (w *world) leapBefore(end time.Time, s *server, to time.Duration, then func()) {
	if to > s.ahead() && !w.mayLeap(s) {
		if time.Now().Before(end) {
			w.scheduler.after(leapEvery, func() { w.leapBefore(end, s, to, then) })
		}
		return
	}
	w.tell(nil, "", "the clock of %s leaps, to %v off", s.name, to)
	s.setClock(to)
	then()
}

// mayLeap reports whether all that a server has granted is also on a majority of the
// others.
func (w *world) mayLeap(s *server) bool {
	for _, key := range w.keys {
		id, left := s.holder(key)
		if id == "" {
			continue
		}
		n := 0
		for _, other := range w.servers {
			if other == s {
				continue
			}
			if also, ends := other.holder(key); also == id && ends >= left-leapSlack {
				n++
			}
		}
		if n <= w.plan.minority() {
			return false
		}
	}
	return true
}

// leapSlack is by how much the same lease may end earlier on another server: its request
// may have come so much earlier there.
const leapSlack = 2 * time.Millisecond

// holder returns the ID that has a key, and for how long; "": none has.
func (s *server) holder(key string) (id string, left time.Duration) {
	s.setTime()
	id, err := s.redis.Mini.Get(key)
	if err != nil {
		return "", 0
	}
	return id, s.redis.Mini.TTL(key)
}

// hold keeps f until the server goes on, and reports whether it is frozen.
func (s *server) hold(f func()) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.frozen.IsZero() {
		return false
	}
	s.held = append(s.held, f)
	return true
}

// freeze lets the server do nothing for d.
func (s *server) freeze(d time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.frozen = later(s.frozen, time.Now().Add(d))
	s.scheduler.at(s.frozen, s.thaw)
}

// thaw lets the server go on, unless it was frozen again. What came meanwhile happens
// now, in its order.
func (s *server) thaw() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if time.Now().Before(s.frozen) {
		return
	}
	for i, f := range s.held {
		s.scheduler.after(time.Duration(i+1)*time.Microsecond, f)
	}
	s.frozen, s.held = time.Time{}, nil
}

// endRun ends a run of the server: nothing that has come is carried out any more.
func (s *server) endRun() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.frozen, s.held = time.Time{}, nil
}

// A copyOfData is what a server had at a time.
type copyOfData []keyState

// copy returns a copy of the data.
func (s *server) copy() (c copyOfData) {
	s.setTime()
	for _, key := range s.redis.Mini.Keys() {
		c = append(c, stateOf(s.redis.Mini, key))
	}
	return c
}

// planCopy has the copy made to which the server of a fault reverts.
func (w *world) planCopy(f Fault) {
	if f.Kind != Revert {
		return
	}
	w.scheduler.at(w.began.Add(max(0, f.At+f.By)), func() {
		s := w.serverOf(f.Site)
		c := s.copy()
		s.mu.Lock()
		defer s.mu.Unlock()
		s.copies = append(s.copies, c)
	})
}

// revert gives the server the data of its oldest copy that it has not gone back to.
func (s *server) revert() {
	s.forget()
	s.mu.Lock()
	c := s.copies[0]
	s.copies = s.copies[1:]
	s.mu.Unlock()
	s.take(change{keys: c})
}

// memoryKey is the key in which a server of a quorum says what it remembers. It outlives
// all locks.
const memoryKey = "warlock:quorum:memory"

// isMemory reports whether a key is such a memory, and expires.
func (s *server) isMemory(key string) bool {
	return key == memoryKey && s.redis.Mini.TTL(key) > 0
}

// A run of a server is its life from a start to the next.
type runOfServer struct {
	id    string
	began time.Time
}

// starts begins a run of the server. Before the first of a run of the world, servers were
// up for upBefore.
func (s *server) starts(up time.Duration) {
	if !s.plan.RunIDs {
		return
	}
	r := s.chance(uint64(s.number), uint64(time.Since(s.began)), 5)
	id := make([]byte, 40)
	for i := range id {
		id[i] = "0123456789abcdef"[r.IntN(16)]
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.run = runOfServer{string(id), time.Now().Add(-up)}
}

const upBefore = time.Hour

// info returns the section of INFO that tells the run of the server; "": it does not.
func (s *server) info(args []string) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.run.id == "" || len(args) != 1 || !strings.EqualFold(args[0], "server") {
		return ""
	}
	up := time.Since(s.run.began) / time.Second
	return "# Server\r\nredis_version:7.2.0\r\nrun_id:" + s.run.id + "\r\n" +
		"uptime_in_seconds:" + strconv.Itoa(int(up)) + "\r\n"
}
