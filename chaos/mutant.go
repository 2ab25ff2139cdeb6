package main

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"

	"github.com/warlock-go/warlock/chaos/judge"
)

// A mutant is the library with one line broken, or with one property that two
// lines keep. Its workers are built with other files in place of the library's.
// Servers, faults and judges stay the same.
type mutant struct {
	name     string
	scenario string // the scenario in which a judge notices it, or onlySimulated
	edits    []edit
}

// An edit replaces old by new in a file of the library. old occurs once there.
type edit struct{ file, old, new string }

const (
	luaAcquire = "internal/protocol/acquire.lua"
	luaBallot  = "internal/protocol/ballot.lua"
	luaContend = "internal/protocol/contend.lua"
	luaEnqueue = "internal/protocol/enqueue.lua"
	luaHandOff = "internal/protocol/handoff.lua"
	luaJoint   = "internal/protocol/joint.lua"
	luaLock    = "internal/protocol/lock.lua"
	luaQueue   = "internal/protocol/queue.lua"
	luaRefuse  = "internal/protocol/refuse.lua"
	luaShare   = "internal/protocol/share.lua"
	luaWaiters = "internal/protocol/waiters.lua"
	luaRenew   = "internal/protocol/renew.lua"
	leaseFile  = "internal/lease/lease.go"
	mailbox    = "internal/wait/mailbox.go"
	session    = "internal/wait/session.go"
	retainFile = "internal/lock/retain.go"
	holdFile   = "internal/lock/hold.go"
	observing  = "internal/lock/observe.go"

	protocolFile = "internal/protocol/protocol.go"
)

var mutants = []mutant{
	{"the lock is taken from its holder", "calm", []edit{{luaAcquire,
		`'NX', 'PX', TTL)`, `'PX', TTL)`}}},
	{"a release does not check the holder", "calm", []edit{{luaHandOff,
		"if holder ~= ID then\n", "if not holder then\n"}}},
	{"a release hands nothing on", "calm", []edit{{luaHandOff,
		"local outcome = hand_off({floor = FLOOR, last_used = LAST_USED > 0 and LAST_USED or nil})", "local outcome = {}"}}},
	{"no waiter is told of its grant", "calm", []edit{{luaWaiters,
		"  redis.pcall('PUBLISH', channel(id), id .. ' ' .. round .. ' ' .. int(token) .. ' ' .. LOCK)\n", ""}}},
	{"the last waiter is served first", "calm", []edit{{luaQueue,
		"local head = lenient('ZRANGE', QUEUE, 0, 0)\n    local id", "local head = lenient('ZRANGE', QUEUE, -1, -1)\n    local id"}}},
	{"readers pass writers that wait", "calm", []edit{{luaContend,
		"(not waiting or redis.call('ZSCORE', READERS, ID))", "true"}}},
	{"a writer is let in beside readers", "calm", []edit{{luaQueue,
		"    if shared and waiter and not waiter.reads then\n      return nil\n    end\n", ""}}},
	{"a local hand-off gives no new token", "calm", []edit{{holdFile,
		"return token + 1, token < g.last", "return token, token < g.last"}}},
	{"a wait that is cancelled passes no grant on", "calm", []edit{{"internal/lock/ask.go",
		"if !a.granted && (a.pending || a.place > 0) {", "if false {"}}},
	{"the mailbox is never closed", "calm", []edit{{mailbox, // each of these makes up for the other
		"if b.waiting == 0 && b.session != nil {", "if false {"}, {session,
		"if b.session == s && b.waiting == 0 {", "if false {"}}},
	{"the data of waiters never expires", "crash", []edit{{luaEnqueue,
		"  keep_alive(WAITERS)\n", ""}}},
	{"dead waiters are never skipped", "stop", []edit{{luaWaiters,
		"if now >= asked and now - asked <= ttl * 1000 then", "if asked then"}, {luaWaiters,
		"if dead and #dead > 0 then", "if false then"}}},
	{"dead waiters are never dropped", onlySimulated, []edit{{luaEnqueue,
		"  drop_dead(now, FEW)\n", ""}}},
	{"a lease counts as held beyond its deadline", "stop", []edit{{leaseFile,
		"if k.current.state != held || now.Before(k.deadline) {", "if now.Before(now.Add(1)) {"}}},
	{"a reader that expires ends the others' shares", "readers", []edit{{luaShare,
		"return redis.call('ZREM', READERS, '', unpack(expired))\n",
		"local n = redis.call('ZREM', READERS, '', unpack(expired))\n" +
			"  if n > 0 then redis.call('DEL', READERS) end\n  return n\n"}}},
	{"leases are not renewed in time", "readers", []edit{{leaseFile,
		"renewDivisor = 3", "renewDivisor = 1"}}},
	{"no try after subscribing", "churn", []edit{{session, // each of these makes up for the other
		"if !b.open.Swap(true) {", "if b.open.Store(true); false {"}, {"internal/lock/ask.go",
		"told := a.box.Open() && a.told && a.answer.HandsOff", "told := a.answer.HandsOff"}}},
	{"who asks again does not find itself the holder", "churn", []edit{{luaContend,
		"if holder == ID then -- granted before", "if false then --"}}},
	{"a lease counts from the answer to its request", "slow", []edit{{"internal/lock/ask.go",
		"}, a.sent)\n", "}, a.Clock.Now())\n"}}},
	{"a renewed lease counts from the answer", "slow", []edit{{leaseFile,
		"	k.prolongLocked(sent, ttl)\n", "	k.prolongLocked(now, ttl)\n"}}},
	{"a renewal makes the key again", "deleted", []edit{{luaRenew,
		"elseif holder == ID then\n  prolong(LOCK, TTL)\n", "elseif not holder or holder == ID then\n  redis.call('SET', LOCK, ID, 'PX', TTL)\n"}}},
	{"a renewal does not check the holder", "deleted", []edit{{luaRenew,
		"elseif holder == ID then\n", "elseif holder then\n"}}},
	{"tokens have no floor", "clock", []edit{{luaLock,
		"if not last or last < now or", "if true or"}}},
	{"a grant is revoked after telling", "moved", []edit{{luaQueue,
		"if waiter and id ~= asker and unsubscribed(waiter) then", "if false then"}, {luaQueue,
		"      tell(waiter.id, waiter.round, token)\n", // and believe what PUBLISH says
		"      local text = waiter.id .. ' ' .. waiter.round .. ' ' .. int(token) .. ' ' .. LOCK\n" +
			"      if redis.call('PUBLISH', channel(waiter.id), text) == 0 and waiter.subscribed then\n" +
			"        revoke(waiter.id, waiter.reads, now)\n        outcome.held = false\n        return outcome\n      end\n"}}},
	{"a fresh lease is thrown away for an unconfirmed one", "shares", []edit{{"internal/lock/read.go",
		"		_, err := s.hold.confirm(ctx)\n		confirmed = err == nil\n", "		confirmed = true\n"}}},
	{"a replica says no", onlySimulated, []edit{{luaShare,
		"local function only_on_master() lenient('ZREM', QUEUE, '') end", "local function only_on_master() end"}}},
	{"a reader's lease ends when a later reader is let in", onlySimulated, []edit{{
		"internal/lock/read.go",
		"		l.shares = append(l.shares, s)\n		kept = true\n",
		"		if old := l.shares.newest(); old != nil && l.NoRenewal {\n" +
			"			go old.hold.grant.abandon(ctx)\n		}\n" +
			"		l.shares = append(l.shares, s)\n		kept = true\n"}}},
	{"the script for many locks hands nothing on", onlySimulated, []edit{{luaJoint,
		"~= id or retains(id) or redis.call('ZCARD', QUEUE) > 0 then", "~= id or retains(id) then"}}},
	{"the script for many locks renews another's lease", onlySimulated, []edit{{luaJoint,
		"if redis.call('GET', LOCK) ~= id or retains(id) and", "if not redis.call('GET', LOCK) or retains(id) and"}}},
	{"a recall is ignored", onlySimulated, []edit{{retainFile,
		"	if g.turns.recallIdle(g) {\n		return\n	}\n", ""}}},
	{"a recall before the grant is forgotten", onlySimulated, []edit{{"internal/lock/ask.go",
		"if g.waiter.Hear(g.hear) {", "if g.waiter.Hear(g.hear); false {"}}},
	{"an idle lease is renewed for ever", onlySimulated, []edit{{retainFile,
		"return unused && t.recallIdle(g)", "return unused && false"}, {retainFile,
		"if left := g.keep() - g.Clock.Since(g.rest.since); left > 0 {", "if left := g.ttl; true {"}}},
	{"TryLock is false of an idle lock", onlySimulated, []edit{{luaRefuse,
		"if ROUND == '0' and redis.call('ZCARD', QUEUE) == 0 and", "if false and"}}},
	{"a mailbox that breaks recalls nothing", onlySimulated, []edit{{mailbox,
		"			pending = append(pending, call)\n", ""}}},
	{"a token is used twice", onlySimulated, []edit{{holdFile,
		"r := g.server.NewRelease(g.id, used)", "r := g.server.NewRelease(g.id, min(used, g.first))"}}},
	{"a lock that was recalled does not cool down", onlySimulated, []edit{{retainFile,
		"	p.cooled = now.Add(p.pause)\n", ""}}},
	{"an early unlock frees the lock", onlySimulated, []edit{{holdFile,
		"if g.Clock.Now().Before(ends) {", "if false {"}}},
	{"a lock is handed off before MinHold", onlySimulated, []edit{{holdFile,
		"if g.MinHold > 0 { // counts from an acquisition", "if false {"}}},
	{"a late message frees a lock that stays taken", onlySimulated, []edit{{holdFile,
		"g.leaveMailboxBy(ends) // not before", "g.leaveMailbox() // not before"}}},
	{"MaxWait ends no wait", onlySimulated, []edit{{"internal/lock/lock.go",
		"if l.MaxWait == 0 {", "if true {"}}},
	{"the context of DoAll outlives a lease", onlySimulated, []edit{{"internal/lock/do.go",
		"func() { cancel(context.Cause(held)) })", "func() {})"}}},
	{"no Observer is told of the unlock of a lost lock", onlySimulated, []edit{{observing,
		"		s.loses(l, err)\n	}\n", "		s.loses(l, err)\n		return\n	}\n"}}},
	{"an Observer is told twice that a lock is lost", onlySimulated, []edit{{observing,
		"if l.hold.mourned.Swap(true) {", "if false {"}}},
	{"a release is tried without pauses", "refused", []edit{{"internal/protocol/release.go",
		"for pauses := new(pauses); ; {", "for tries := 1; ; tries++ {"}, {"internal/protocol/release.go",
		"if pauses.wait(ctx) != nil {", "if tries == 4 {"}}},
	{"a grant counts that no replica has", "sentinel, replicas", []edit{{protocolFile,
		"grant.NotDurable = durable(copies)", "grant.NotDurable = nil"}}},
	{"a renewal counts that no replica has", onlySimulated, []edit{{protocolFile,
		"return waiting, durable(copies)", "return waiting, nil"}}},
	{"a grant by a message counts that no replica has", onlySimulated, []edit{{
		"internal/lock/lock.go", "if h == nil || l.Replicas == 0 {", "if true {"}}},
	{"a minority grants the lock", "quorum, calm", []edit{{"internal/quorum/tally.go",
		"t.won = granted >= majority", "t.won = granted > 0"}}},
	{"a minority hands the lock off", "quorum, calm", []edit{{"internal/quorum/handoff.go",
		"if n < w.mailbox.majority {", "if n < 1 {"}}},
	{"a server that has forgotten votes at once", "quorum, restart", []edit{{
		"internal/quorum/memory.go",
		"if left := time.Until(s.mayVote); left > 0 && !q.persistent {",
		"if left := time.Until(s.mayVote); left > 0 && false {"}}},
	{"a vote does not look at the memory", "quorum, restart", []edit{{luaBallot,
		"if not remembers(MEMORY, ARGV[11]) then", "if false then"}}},
	{"a server that lacks a lease is not told of it", "quorum, restart", []edit{{
		"internal/quorum/renew.go",
		"if x == nil || l.quorum.stateOf(x) != held {", "if true || l.quorum.stateOf(x) != held {"}}},
}

// onlySimulated is the scenario of a mutant that only the simulation catches.
const onlySimulated = "simulation"

const library = "github.com/warlock-go/warlock"

// runMutants runs the mutants whose names contain only, each in its scenario.
// It fails if no judge catches a mutant.
func runMutants(ctx context.Context, only string, p *plan, stdout, stderr io.Writer) error {
	chosen, err := prepareMutants(ctx, only)
	if err != nil {
		return err
	}
	defer os.RemoveAll(chosen.dir)
	fmt.Fprintf(stdout, seedLine, p.seed, p.duration)
	uncaught, err := huntAll(ctx, chosen.chosen, chosen.source, chosen.dir, p, stdout, stderr)
	if err == nil && len(uncaught) > 0 {
		err = fmt.Errorf("not caught with seed %d: %s", p.seed, strings.Join(uncaught, "; "))
	}
	return err
}

// mutantsToBuild are mutants, and what it takes to build them.
type mutantsToBuild struct {
	chosen      []mutant
	source, dir string // the library's source, and a folder that the caller removes
}

// prepareMutants returns the mutants whose names contain only.
func prepareMutants(ctx context.Context, only string) (m mutantsToBuild, err error) {
	if m.chosen, err = chooseMutants(only); err != nil {
		return m, err
	}
	if m.source, err = sourceOf(ctx, library); err != nil {
		return m, err
	}
	m.dir, err = os.MkdirTemp("", "warlock-mutants-")
	return m, err
}

// huntAll builds each mutant in dir and hunts it. It writes a table of them, and
// returns the names of those that no judge has caught.
func huntAll(
	ctx context.Context, chosen []mutant, source, dir string, p *plan, stdout, stderr io.Writer,
) (uncaught []string, err error) {
	t := tabwriter.NewWriter(stdout, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "mutant\tscenario\tcaught by\ttries")
	for _, m := range chosen {
		if m.scenario == onlySimulated {
			continue
		}
		program, err := m.build(ctx, source, dir)
		if err != nil {
			return nil, err
		}
		h, err := m.hunt(ctx, &plan{seed: p.seed, duration: p.duration, program: program}, stderr)
		if err != nil {
			return nil, fmt.Errorf("mutant %q: %w", m.name, err)
		}
		if len(h.judges) == 0 {
			uncaught = append(uncaught, m.name)
		}
		by := cmp.Or(strings.Join(h.judges, ", "), "NOBODY")
		fmt.Fprintf(stderr, "%-50s %s\n", m.name, by)
		fmt.Fprintf(t, "%s\t%s\t%s\t%d\n", m.name, m.scenario, by, h.tries)
	}
	_ = t.Flush() // fails only if stdout does
	return uncaught, nil
}

// chooseMutants returns the mutants whose names contain part.
func chooseMutants(part string) (chosen []mutant, err error) {
	for _, m := range mutants {
		if strings.Contains(m.name, part) {
			chosen = append(chosen, m)
		}
	}
	if len(chosen) == 0 {
		return nil, fmt.Errorf("no mutant has %q in its name", part)
	}
	return chosen, nil
}

// A huntResult says which judges caught a mutant, and after how many runs.
type huntResult struct {
	judges []string
	tries  int
}

// hunt runs a mutant until a judge catches it, up to 5 times with seeds that
// follow. It returns the judges that caught it.
func (m *mutant) hunt(ctx context.Context, p *plan, stderr io.Writer) (h huntResult, err error) {
	chosen, err := choose(m.scenario)
	if err != nil {
		return h, err
	}
	const most = 5
	for h.tries = 1; ; h.tries++ {
		bar := newBar(m.scenario, p.duration, stderr)
		p.progress = bar.show
		v, err := chosen[0].run(ctx, p)
		bar.end()
		if err != nil {
			return h, err
		}
		for _, x := range v.Violations {
			if x.Judge != judge.Undecided && !slices.Contains(h.judges, x.Judge) {
				h.judges = append(h.judges, x.Judge)
			}
		}
		if len(h.judges) > 0 || h.tries == most {
			return h, nil
		}
		p.seed++
	}
}

// sourceOf returns the folder of a package's source.
func sourceOf(ctx context.Context, pkg string) (string, error) {
	out, err := output(exec.CommandContext(ctx, "go", "list", "-f", "{{.Dir}}", pkg))
	if err != nil {
		return "", fmt.Errorf("mutants are built from source: %w", err)
	}
	return strings.TrimSpace(string(out)), nil
}

// apply returns the edit's file with the edit, given its text.
func (e *edit) apply(text []byte) ([]byte, error) {
	if n := bytes.Count(text, []byte(e.old)); n != 1 {
		return nil, fmt.Errorf("%q occurs %d times in %s, and not once", e.old, n, e.file)
	}
	return bytes.Replace(text, []byte(e.old), []byte(e.new), 1), nil
}

// broken returns the edited files of the library, by name.
func (m *mutant) broken(source string) (map[string][]byte, error) {
	files := make(map[string][]byte)
	for _, e := range m.edits {
		text, known := files[e.file]
		var err error
		if !known {
			if text, err = os.ReadFile(filepath.Join(source, e.file)); err != nil {
				return nil, err
			}
		}
		if files[e.file], err = e.apply(text); err != nil {
			return nil, err
		}
	}
	return files, nil
}

// build builds this program with the mutant, and returns its path.
func (m *mutant) build(ctx context.Context, source, dir string) (program string, err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("mutant %q: %w", m.name, err)
		}
	}()
	files, err := m.broken(source)
	if err != nil {
		return "", err
	}
	replace := make(map[string]string)
	for name, text := range files {
		file := filepath.Join(dir, strconv.Itoa(len(replace)))
		if err := os.WriteFile(file, text, 0o666); err != nil {
			return "", err
		}
		replace[filepath.Join(source, name)] = file
	}
	overlay, program := filepath.Join(dir, "overlay.json"), filepath.Join(dir, "chaos")
	list, err := json.Marshal(map[string]any{"Replace": replace})
	if err == nil {
		err = os.WriteFile(overlay, list, 0o666)
	}
	if err != nil {
		return "", err
	}
	args := []string{"build", "-overlay", overlay, "-o", program, library + "/chaos"}
	_, err = output(exec.CommandContext(ctx, "go", args...))
	return program, err
}

// output returns the output of a command. Its error has what the command wrote
// to standard error.
func output(cmd *exec.Cmd) ([]byte, error) {
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		err = fmt.Errorf("%s: %w\n%s", strings.Join(cmd.Args, " "), err, stderr.Bytes())
	}
	return out, err
}
