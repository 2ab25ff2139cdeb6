package judge

import "sync"

// A Recorder fills a History. Several goroutines may use it at once.
type Recorder struct {
	mu  sync.Mutex // guards the following
	h   *History
	ops map[[2]int]*Op // by process and number of the op
}

// NewRecorder returns a Recorder that fills h. The caller has set the fields of
// h that are not lists.
func NewRecorder(h *History) *Recorder {
	return &Recorder{h: h, ops: make(map[[2]int]*Op)}
}

// Op records how far an op has come. A later record of the op replaces an
// earlier one, except its lease checks, which are kept.
func (r *Recorder) Op(o *Op) {
	r.mu.Lock()
	defer r.mu.Unlock()
	id := [2]int{o.Process, o.Number}
	known := r.ops[id]
	if known == nil {
		known = o
		r.ops[id] = o
		r.h.Ops = append(r.h.Ops, o)
	} else {
		o.Checks = known.Checks
		*known = *o
	}
	n := len(known.Checks)
	if known.Checked.At != 0 && (n == 0 || known.Checks[n-1].At != known.Checked.At) {
		known.Checks = append(known.Checks, known.Checked)
	}
}

// Request records a request with its answer.
func (r *Recorder) Request(q *Request) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.h.Requests = append(r.h.Requests, q)
}

// Fault records a fault that has ended.
func (r *Recorder) Fault(f *Fault) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.h.Faults = append(r.h.Faults, f)
}

// Start records that a process starts in a slot, and returns its number.
func (r *Recorder) Start(slot int, at Instant) (number int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.h.Processes = append(r.h.Processes, Process{Slot: slot, Started: at})
	return len(r.h.Processes) - 1
}

// Options records the options of a process.
func (r *Recorder) Options(number int, o Options) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.h.Processes[number].Options = o
}

// Event records what the Observer of a process is told.
func (r *Recorder) Event(e *Event) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.h.Events = append(r.h.Events, e)
}

// End records the end of a process. The first record counts.
func (r *Recorder) End(number int, at Instant) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if p := &r.h.Processes[number]; p.Ended == 0 {
		p.Ended = at
	}
}

// Grants returns how many ops have been granted their lock so far.
func (r *Recorder) Grants() (n int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, o := range r.h.Ops {
		if o.granted() {
			n++
		}
	}
	return n
}

// History returns the history. The Recorder is not used any more.
func (r *Recorder) History() *History {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.h
}
