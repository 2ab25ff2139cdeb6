package warlockotel

import (
	"maps"
	"sync"
	"sync/atomic"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"

	"github.com/warlock-go/warlock"
)

// The attributes.
const (
	nameKey    = attribute.Key("warlock.lock.name")
	modeKey    = attribute.Key("warlock.lock.mode")
	outcomeKey = attribute.Key("warlock.lock.outcome") // of waits
	pathKey    = attribute.Key("warlock.lock.path")    // of waits that got the lock
	endKey     = attribute.Key("warlock.lock.end")     // of holds
	errorKey   = attribute.Key("error.type")           // of losses, and of spans

	lockKey  = attribute.Key("warlock.lock.key")   // of spans, with WithKeys
	fenceKey = attribute.Key("warlock.lock.fence") // of spans
	ownerKey = attribute.Key("warlock.lock.owner") // of spans
)

// A label is a set of attributes in the forms that instruments take. It is made
// once, so that a measurement allocates nothing.
type label struct {
	add    []metric.AddOption
	record []metric.RecordOption
}

func newLabel(attributes ...attribute.KeyValue) label {
	set := metric.WithAttributeSet(attribute.NewSet(attributes...))
	return label{[]metric.AddOption{set}, []metric.RecordOption{set}}
}

// A series has the labels of the locks of one name in one mode.
type series struct {
	plain       label                           // name and mode
	acquired    [warlock.PathRetained + 1]label // by path; 0: any other
	notAcquired map[outcome]label               // by outcome
	ended       map[end]label                   // by end
	lost        map[cause]label                 // by error.type
}

func newSeries(of seriesKey) *series {
	base := of.attributes()
	with := func(more ...attribute.KeyValue) label {
		return newLabel(append(base[:len(base):len(base)], more...)...)
	}
	s := &series{
		plain:       with(),
		notAcquired: make(map[outcome]label),
		ended:       make(map[end]label),
		lost:        make(map[cause]label),
	}
	got := outcomeKey.String(string(acquired))
	s.acquired[0] = with(got)
	for p := warlock.PathFree; p <= warlock.PathRetained; p++ {
		s.acquired[p] = with(got, pathKey.String(p.String()))
	}
	for _, o := range []outcome{notAcquired, failed} {
		s.notAcquired[o] = with(outcomeKey.String(string(o)))
	}
	for _, e := range []end{released, lost} {
		s.ended[e] = with(endKey.String(string(e)))
	}
	for _, c := range []cause{expired, taken, unreachable} {
		s.lost[c] = with(errorKey.String(string(c)))
	}
	return s
}

// by returns the label of acquisitions by that path.
func (s *series) by(p warlock.Path) label {
	if p < 0 || int(p) >= len(s.acquired) {
		p = 0
	}
	return s.acquired[p]
}

// A seriesKey is what the labels of a series have in common.
type seriesKey struct {
	name string
	mode warlock.Mode
}

// attributes returns the name, if there is one, and the mode.
func (k seriesKey) attributes() []attribute.KeyValue {
	all := make([]attribute.KeyValue, 0, 2)
	if k.name != "" {
		all = append(all, nameKey.String(k.name))
	}
	return append(all, modeKey.String(k.mode.String()))
}

// maxSeries bounds the cache. Names are of groups of locks, and so there are few.
const maxSeries = 512

// A cache keeps the series that were used first. A series beyond maxSeries is made
// anew for each event, which is slower, and takes no memory. The zero value is empty.
type cache struct {
	known atomic.Pointer[map[seriesKey]*series] // not changed once it is stored
	mu    sync.Mutex                            // held to store
}

// of returns the series of k. It calls made with a series that it makes.
func (c *cache) of(k seriesKey, made func(*series)) *series {
	if known := c.known.Load(); known != nil {
		if s := (*known)[k]; s != nil {
			return s
		}
	}
	s := newSeries(k)
	made(s)
	c.keep(k, s)
	return s
}

// keep stores s, if there is room.
func (c *cache) keep(k seriesKey, s *series) {
	c.mu.Lock()
	defer c.mu.Unlock()
	next := make(map[seriesKey]*series)
	if known := c.known.Load(); known != nil {
		if len(*known) >= maxSeries {
			return
		}
		maps.Copy(next, *known)
	}
	next[k] = s
	c.known.Store(&next)
}
