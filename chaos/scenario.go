package main

import "time"

// A scenario is a load, the backend that it runs on, and the faults that happen
// meanwhile. All its faults are equally likely.
type scenario struct {
	name      string
	backend   string // its kind
	load      load
	lineDelay time.Duration // of each line between a worker and a server, each way
	faults    []fault
	killAtEnd bool // the run ends with a kill of all workers at once
}

// usual is the usual load. The holds of long last long enough for renewals.
var (
	usual = load{Reads: 0.5, Hold: 200 * time.Millisecond}
	long  = load{Reads: 0.5, Hold: time.Second}
)

// retained is a load whose locks are retained. Most holds are of the worker that
// retains the lock.
var retained = load{Reads: 0.5, Hold: 50 * time.Millisecond, Retains: true}

// writers is the usual load without readers, which a quorum does not have.
var writers = load{Hold: 200 * time.Millisecond}

// longWriters hold long enough for renewals.
var longWriters = load{Hold: time.Second}

// durable is the usual load, where so many replicas have a lock before its holder.
func durable(replicas int) load {
	l := usual
	l.Replicas = replicas
	return l
}

var scenarios = []scenario{
	{name: "calm", backend: single, load: usual},
	{name: "crash", backend: single, load: usual, faults: []fault{killWorkers}, killAtEnd: true},
	{name: "stop", backend: single, load: usual, faults: []fault{stopWorkers}},
	{name: "readers", backend: single,
		load:   load{Reads: 0.97, Hold: 3 * ttl / 2, Even: true},
		faults: []fault{killWorkers, stopWorkers}},
	{name: "churn", backend: single,
		load:      load{Hold: 200 * time.Millisecond, Single: true, Pause: 400 * time.Millisecond},
		lineDelay: 10 * time.Millisecond},
	{name: "slow", backend: single, load: long, faults: []fault{latency, slowThenGone}},
	{name: "cut", backend: single, load: usual, faults: []fault{cutLines, halfOpen, dropReplies}},
	{name: "clients", backend: single, load: usual,
		faults: []fault{killPubSub, killNormal, pauseServer, flushScripts}},
	{name: "restart, kept", backend: appendOnly, load: usual, faults: []fault{restartKept}},
	{name: "restart, empty", backend: single, load: usual, faults: []fault{restartEmpty}},
	{name: "memory", backend: single, load: usual, faults: []fault{fillMemory}},
	{name: "deleted", backend: single, load: long,
		faults: []fault{deleteLock, deleteLock, deleteLock, deleteAll}},
	{name: "shares", backend: single,
		load: load{Reads: 0.8, Hold: 400 * time.Millisecond}, faults: []fault{releaseReaders}},
	{name: "refused", backend: single, load: usual, faults: []fault{noReplicas, readOnly}},
	{name: "clock", backend: clocked, load: usual, faults: []fault{moveClock}},
	{name: "sentinel", backend: sentinel, load: usual,
		faults: []fault{killMaster, stopMaster, failOver}},
	{name: "moved", backend: pair, load: usual, faults: []fault{moveAddress}},
	{name: "cluster", backend: cluster, load: usual,
		faults: []fault{killMaster, moveSlot, moveSlot, failOver}},
	{name: "sentinel, ahead", backend: sentinel, load: usual, faults: []fault{killMaster, killAhead}},
	{name: "sentinel, replicas", backend: sentinel, load: durable(2),
		faults: []fault{killMaster, killAhead, stopMaster, failOver}},
	{name: "cluster, ahead", backend: cluster, load: usual, faults: []fault{killMaster, killAhead}},
	{name: "cluster, replicas", backend: cluster, load: durable(1),
		faults: []fault{killMaster, killAhead, moveSlot, failOver}},
	{name: "storm", backend: single, load: usual, faults: ofStorm},
	{name: "retained, crash", backend: single, load: retained, faults: []fault{killWorkers},
		killAtEnd: true},
	{name: "retained, stop", backend: single, load: retained, faults: []fault{stopWorkers}},
	{name: "retained, cut", backend: single, load: retained,
		faults: []fault{cutLines, halfOpen, dropReplies, killPubSub}},
	{name: "retained, sentinel", backend: sentinel, load: retained,
		faults: []fault{killMaster, stopMaster, failOver}},
	{name: "retained, storm", backend: single, load: retained, faults: ofStorm},
	{name: "quorum, calm", backend: quorum3, load: writers},
	{name: "quorum, down", backend: quorum3, load: longWriters,
		faults: []fault{ofMinority("server down", downThenEmpty)}},
	{name: "quorum, restart", backend: quorum3, load: longWriters,
		faults: []fault{restartInTurn, restartTogether, ofMinority("server emptied", restartsEmpty, flushed)}},
	{name: "quorum, frozen", backend: quorum3, load: longWriters,
		faults: []fault{ofMinority("server stopped", frozen)}},
	{name: "quorum, slow", backend: quorum3, load: longWriters,
		faults: []fault{ofMinority("server slow", slowLines)}},
	{name: "quorum, partitioned", backend: quorum3, load: longWriters,
		faults: []fault{scattered, ofMinority("server out of reach", linesCut, linesSilent, repliesLost),
			ofMinority("connections killed", pubSubKilled, normalKilled), killPubSub}},
	{name: "quorum, majority", backend: quorum3, load: longWriters,
		faults: []fault{ofMajority("a majority in trouble", honestTroubles...)}},
	{name: "quorum, clock", backend: quorum3, load: longWriters,
		faults: []fault{ofMinority("server's clock moved", leapingClock)}},
	{name: "quorum, crash", backend: quorum3, load: writers, faults: []fault{killWorkers},
		killAtEnd: true},
	{name: "quorum of 5, storm", backend: quorum5, load: writers,
		faults: []fault{ofMinority("two servers in trouble", troubles...),
			ofMinority("two servers in trouble", troubles...), scattered, killWorkers, stopWorkers,
			killPubSub}},
}

// ofStorm are all faults of one server.
var ofStorm = []fault{
	killWorkers, stopWorkers, latency, cutLines, halfOpen, dropReplies, slowThenGone,
	killPubSub, killNormal, pauseServer, flushScripts, fillMemory, deleteLock, deleteAll,
	releaseReaders, noReplicas, readOnly, restartEmpty,
}
