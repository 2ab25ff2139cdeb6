package sim

import (
	"time"

	"github.com/warlock-go/warlock/chaos/judge"
)

// planFaults lets the faults of the plan happen.
func (w *world) planFaults() {
	w.addFelt()
	for i, f := range w.plan.Faults {
		w.planCopy(f)
		w.scheduler.at(w.began.Add(f.At).Add(time.Duration(i)), func() { w.happens(f) })
	}
}

// happens lets a fault happen. A fault that comes when the load has ended does
// not.
func (w *world) happens(f Fault) {
	w.mu.Lock()
	closing := w.closing
	if !closing {
		w.happened[f.Kind.String()]++
	}
	w.mu.Unlock()
	if closing {
		return
	}
	w.tell(nil, "", "fault: %v", f)
	if kinds[f.Kind].hits == oneProcess {
		w.happensToProcess(f)
	} else {
		w.happensToSite(f)
	}
}

// record notes a fault that begins now and ends after d.
func (w *world) record(f Fault, slots []int, key int, d time.Duration) *judge.Fault {
	x := &judge.Fault{
		Name: f.Kind.String(), Start: w.now(), End: w.now().Add(d), Slots: slots, Key: key,
		Effects: w.plan.effectsOf(f),
	}
	w.addFault(x)
	return x
}

func (w *world) addFault(x *judge.Fault) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.faults = append(w.faults, x)
}

func (w *world) happensToProcess(f Fault) {
	var slots []int // nil: all
	for slot := range w.processes {
		if f.Slot != AllSlots && (slot == f.Slot) != f.Others {
			slots = append(slots, slot)
		}
	}
	if f.Others && slots == nil { // there are no others
		return
	}
	x := w.record(f, slots, judge.AllKeys, f.For)
	if f.AtSite {
		x.End = x.End.Add(w.plan.aftermath(f))
	}
	switch f.Kind {
	case Crash:
		w.crash(f.Slot)
	case Pause:
		for _, slot := range slots {
			w.processes[slot].pause(f.For)
		}
	case Cut:
		for slot, p := range w.processes {
			if f.Slot == AllSlots || f.Slot == slot {
				p.cutLinks(w.hitServer(f))
			}
		}
		x.End = max(x.End, w.now().Add(time.Second)) // go-redis pauses before it dials again
	default:
		w.addWeather(f, x)
	}
}

// addWeather adds the weather of a fault.
func (w *world) addWeather(f Fault, x *judge.Fault) {
	now := time.Now()
	weather := &weather{
		slot: f.Slot, site: allSites, from: now, to: now.Add(f.For), fault: x, world: w,
	}
	if f.AtSite {
		weather.site = f.Site
	}
	switch f.Kind {
	case Lossy:
		weather.lossy = 0.15
	case Slow:
		weather.slow = w.plan.TTL
	case Deaf:
		weather.deaf = 0.7
	case Part:
		weather.parted = true
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.weather = append(w.weather, weather)
}

func (w *world) happensToSite(f Fault) {
	s := w.serverOf(f.Site)
	faults := w.recordOfSite(f)
	switch f.Kind {
	case Restart, Forget, Revert:
		w.restart(s, f)
	case Freeze:
		s.freeze(f.For)
	case Flush:
		s.flushScripts()
	case ReadOnly:
		w.moody(s, readOnly, f.For)
	case Loading:
		w.moody(s, loading, f.For)
	case OutOfRoom:
		w.moody(s, outOfRoom, f.For)
	case Jump:
		if w.plan.Quorum {
			w.leap(s, f.By, func() { w.scheduler.after(f.For, func() { w.leap(s, 0, func() {}) }) })
			break
		}
		w.jumped(f, s.setClock(f.By))
	case Promote, Move:
		w.promote(f, faults)
	}
}

// restart lets a server be down for a while. It may have lost data when it is up again.
func (w *world) restart(s *server, f Fault) {
	s.down.Store(true)
	s.endRun()
	w.cutLinksTo(s)
	switch f.Kind {
	case Forget:
		s.forget()
		s.emptyReplicas()
	case Revert:
		s.revert()
	}
	w.scheduler.after(f.For, func() {
		s.starts(0)
		s.down.Store(false)
	})
}

// hitServer returns the server to which a fault hits the links; nil: to all.
func (w *world) hitServer(f Fault) *server {
	if !f.AtSite {
		return nil
	}
	return w.serverOf(f.Site)
}

// jumped notes that a clock was set back: the leases of the dead last longer by
// as much.
func (w *world) jumped(f Fault, back time.Duration) {
	if back > 0 {
		w.addFault(&judge.Fault{
			Name: f.Kind.String(), Start: w.now(), End: w.now().Add(back), Key: judge.AllKeys,
			Effects: judge.DelaysMessages,
		})
	}
}

// recordOfSite notes a fault for each key of a site. The keys of a quorum are on all
// sites.
func (w *world) recordOfSite(f Fault) (faults []*judge.Fault) {
	if w.plan.effectsOf(f) == 0 {
		return nil
	}
	if w.plan.Quorum {
		return []*judge.Fault{w.record(f, nil, judge.AllKeys, f.For+w.plan.aftermath(f))}
	}
	d := f.For
	if w.plan.effectsOf(f)&judge.DelaysMessages != 0 {
		d += time.Second // go-redis pauses before it dials again
	}
	for key := range w.keys {
		if w.siteOf(key) == f.Site {
			x := w.record(f, nil, key, d)
			if f.Kind == Promote { // the new master has an older state
				x.Start = x.Start.Add(-w.plan.Lag)
			}
			faults = append(faults, x)
		}
	}
	return faults
}

// moody lets a master be in a mood for a while.
func (w *world) moody(s *server, m mood, d time.Duration) {
	s.setMood(m)
	w.scheduler.after(d, func() {
		if s.mood.Load() == m && w.isMaster(s) {
			s.setMood(willing)
		}
	})
}

func (w *world) isMaster(s *server) bool {
	for site := range w.plan.Sites {
		if w.serverOf(site) == s {
			return true
		}
	}
	return false
}

// promote makes the replica of a site its master. In a failover, what it does
// not have yet is lost, and the old master becomes a replica later: until then
// there are two masters. If the address moves, that is planned: the replica has
// all data first, and the old master is a replica at once.
func (w *world) promote(f Fault, faults []*judge.Fault) {
	old := w.serverOf(f.Site)
	old.mu.Lock()
	if len(old.replicas) == 0 { // it comes to be one only now
		old.mu.Unlock()
		return
	}
	next := old.replicas[0]
	old.mu.Unlock()
	next.leave(old)
	if f.Kind == Move {
		next.copyData(old)
	}
	next.setMood(willing)
	w.mu.Lock()
	w.masters[f.Site] = next
	w.mu.Unlock()
	demote := func() {
		old.follow(next)
		if f.Kind == Promote {
			w.cutLinksTo(old)
		}
		for _, x := range faults {
			x.End = w.now().Add(time.Second)
		}
	}
	if f.Kind == Move {
		// The links to the old master stay. So messages may reach a waiter by a
		// replica from now on, late.
		f.For = 0
		w.addFault(&judge.Fault{
			Name: f.Kind.String(), Start: w.now(), End: w.now().Add(time.Hour), Key: judge.AllKeys,
			Effects: judge.LosesMessages,
		})
	}
	w.scheduler.after(f.For, demote)
}

// cutLinksTo breaks all links to a server.
func (w *world) cutLinksTo(s *server) {
	w.mu.Lock()
	all := w.all
	w.mu.Unlock()
	for _, p := range all {
		p.cutLinks(s)
	}
}
