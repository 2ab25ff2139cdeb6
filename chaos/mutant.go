package main

import (
	"bytes"
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
)

// A mutant is the library with one line broken, or what there is twice. Its workers are built with
// other files in the place of the library's; servers, faults and judges are as ever.
type mutant struct {
	name     string
	scenario string // in which it shows
	edits    []edit
}

// An edit is of a file of the library. What is old is there once.
type edit struct{ file, old, new string }

const (
	luaAcquire = "internal/protocol/acquire.lua"
	luaContend = "internal/protocol/contend.lua"
	luaHandOn  = "internal/protocol/handon.lua"
	luaLock    = "internal/protocol/lock.lua"
	luaQueue   = "internal/protocol/queue.lua"
	luaShare   = "internal/protocol/share.lua"
	luaRenew   = "internal/protocol/renew.lua"
	leaseFile  = "internal/lease/lease.go"
	mailbox    = "internal/wait/mailbox.go"
)

var mutants = []mutant{
	{"the lock is taken whoever has it", "calm", []edit{{luaAcquire,
		`'NX', 'PX', TTL)`, `'PX', TTL)`}}},
	{"a release does not look whose the lock is", "calm", []edit{{luaHandOn,
		"if holder ~= ID then\n", "if not holder then\n"}}},
	{"a release hands nothing on", "calm", []edit{{luaHandOn,
		"local outcome = hand_on(nil, FLOOR, USED > 0 and USED or nil)", "local outcome = {}"}}},
	{"nobody is told of a grant", "calm", []edit{{luaQueue,
		"  redis.pcall('PUBLISH', channel(id), id .. ' ' .. round .. ' ' .. int(token) .. ' ' .. LOCK)\n", ""}}},
	{"the last to come is the first to be served", "calm", []edit{{luaQueue,
		"local head = lenient('ZRANGE', QUEUE, 0, 0)\n    local id", "local head = lenient('ZRANGE', QUEUE, -1, -1)\n    local id"}}},
	{"readers pass writers that wait", "calm", []edit{{luaContend,
		"(not waiting or redis.call('ZSCORE', READERS, ID))", "true"}}},
	{"a writer is let in beside readers", "calm", []edit{{luaQueue,
		"    if shared and waiter and not waiter.reads then\n      return nil\n    end\n", ""}}},
	{"a local hand-off gives no new token", "calm", []edit{{"internal/lock/hold.go",
		"fence: h.fence + 1,", "fence: h.fence,"}}},
	{"a wait that is cancelled passes no grant on", "calm", []edit{{"internal/lock/ask.go",
		"if !a.granted && (a.pending || a.place > 0) {", "if false {"}}},
	{"the mailbox is never closed", "calm", []edit{{mailbox,
		"if b.waiting == 0 && b.session != nil {", "if false {"}}},
	{"what is known of waiters never expires", "crash", []edit{{luaContend,
		"  keep(WAITERS)\n", ""}}},
	{"dead waiters are never skipped", "stop", []edit{{luaQueue,
		"if now >= seen and now - seen <= ttl * 1000 then", "if seen then"}, {luaQueue,
		"if stale and #stale > 0 then", "if false then"}}},
	{"a lease is believed in beyond its deadline", "stop", []edit{{leaseFile,
		"if k.current.state != held || now.Before(k.deadline) {", "if now.Before(now.Add(1)) {"}}},
	{"a reader that expires ends the others' shares", "readers", []edit{{luaShare,
		"return redis.call('ZREM', READERS, '', unpack(past))\n",
		"local n = redis.call('ZREM', READERS, '', unpack(past))\n" +
			"  if n > 0 then redis.call('DEL', READERS) end\n  return n\n"}}},
	{"leases are not renewed in time", "readers", []edit{{leaseFile,
		"renewShare = 3", "renewShare = 1"}}},
	{"no try after subscribing", "churn", []edit{{mailbox, // each of these makes up for the other
		"if !b.open.Swap(true) {", "if b.open.Store(true); false {"}, {"internal/lock/ask.go",
		"told := a.box.Open() && a.told && a.answer.HandsOff", "told := a.answer.HandsOff"}}},
	{"who asks again does not find itself the holder", "churn", []edit{{luaContend,
		"if holder == ID then -- granted before", "if false then --"}}},
	{"a lease counts from the answer to its request", "slow", []edit{{"internal/lock/ask.go",
		"}, a.sent)\n", "}, a.Clock.Now())\n"}}},
	{"a renewed lease counts from the answer", "slow", []edit{{leaseFile,
		"k.grantedLocked(sent, ttl)\n", "k.grantedLocked(now, ttl)\n"}}},
	{"a renewal makes the key again", "deleted", []edit{{luaRenew,
		"elseif holder == ID then\n  prolong(LOCK, TTL)\n", "elseif not holder or holder == ID then\n  redis.call('SET', LOCK, ID, 'PX', TTL)\n"}}},
	{"a renewal does not look whose the lock is", "deleted", []edit{{luaRenew,
		"elseif holder == ID then\n", "elseif holder then\n"}}},
	{"tokens have no floor", "clock", []edit{{luaLock,
		"if not last or last < now or", "if true or"}}},
	{"a grant is revoked after telling", "moved", []edit{{luaQueue,
		"if waiter and id ~= asker and gone(waiter) then", "if false then"}, {luaQueue,
		"      tell(waiter.id, waiter.round, token)\n", // and believe what PUBLISH says
		"      local text = waiter.id .. ' ' .. waiter.round .. ' ' .. int(token) .. ' ' .. LOCK\n" +
			"      if redis.call('PUBLISH', channel(waiter.id), text) == 0 and waiter.counted then\n" +
			"        revoke(waiter.id, waiter.reads, now)\n        outcome.held = false\n        return outcome\n      end\n"}}},
	{"a fresh lease is thrown away for one that may be gone", "shares", []edit{{"internal/lock/read.go",
		"		_, err := s.hold.confirm(ctx)\n		confirmed = err == nil\n", "		confirmed = true\n"}}},
	{"a release is tried without pauses", "refused", []edit{{"internal/protocol/release.go",
		"for pauses := new(pauses); ; {", "for tries := 1; ; tries++ {"}, {"internal/protocol/release.go",
		"if pauses.wait(ctx) != nil {", "if tries == 4 {"}}},
}

const library = "github.com/warlock-go/warlock"

// runMutants runs each mutant whose name has only in it in its scenario, and errs if one is not caught.
func runMutants(ctx context.Context, only string, p *plan, stdout, stderr io.Writer) error {
	chosen := slices.DeleteFunc(slices.Clone(mutants), func(m mutant) bool { return !strings.Contains(m.name, only) })
	if len(chosen) == 0 {
		return fmt.Errorf("no mutant has %q in its name", only)
	}
	dir, err := os.MkdirTemp("", "warlock-mutants-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	source, err := sourceOf(ctx, library)
	if err != nil {
		return err
	}
	fmt.Fprintf(stdout, "seed %d, %v of load each\n", p.seed, p.duration)
	t := tabwriter.NewWriter(stdout, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "mutant\tscenario\tcaught by\ttries")
	var uncaught []string
	for _, m := range chosen {
		own := *p
		own.keep = ""
		if own.program, err = m.build(ctx, source, dir); err != nil {
			return fmt.Errorf("mutant %q: %w", m.name, err)
		}
		judges, tries, err := m.hunt(ctx, &own, stderr)
		if err != nil {
			return fmt.Errorf("mutant %q: %w", m.name, err)
		}
		by := strings.Join(judges, ", ")
		if by == "" {
			by = "NOBODY"
			uncaught = append(uncaught, m.name)
		}
		fmt.Fprintf(stderr, "%-50s %s\n", m.name, by)
		fmt.Fprintf(t, "%s\t%s\t%s\t%d\n", m.name, m.scenario, by, tries)
	}
	_ = t.Flush() // as with the standard output everywhere
	if len(uncaught) > 0 {
		return fmt.Errorf("not caught with seed %d: %s", p.seed, strings.Join(uncaught, "; "))
	}
	return nil
}

// hunt runs a mutant until a judge has caught it, and returns which did.
func (m *mutant) hunt(ctx context.Context, p *plan, stderr io.Writer) (judges []string, tries int, err error) {
	chosen, err := choose(m.scenario)
	if err != nil {
		return nil, 0, err
	}
	const most = 5
	for tries = 1; ; tries++ {
		bar := newBar(m.scenario, p.duration, stderr)
		p.progress = bar.show
		v, err := chosen[0].run(ctx, p)
		bar.end()
		if err != nil {
			return nil, tries, err
		}
		for _, x := range v.Violations {
			if x.Judge != undecided && !slices.Contains(judges, x.Judge) {
				judges = append(judges, x.Judge)
			}
		}
		if len(judges) > 0 || tries == most {
			return judges, tries, nil
		}
		p.seed++
	}
}

// sourceOf returns where a package's source is.
func sourceOf(ctx context.Context, pkg string) (string, error) {
	out, err := output(exec.CommandContext(ctx, "go", "list", "-f", "{{.Dir}}", pkg))
	if err != nil {
		return "", fmt.Errorf("mutants are built from source: %w", err)
	}
	return strings.TrimSpace(string(out)), nil
}

// apply returns text, which is of the edit's file, as the mutant has it.
func (e *edit) apply(text []byte) ([]byte, error) {
	if n := bytes.Count(text, []byte(e.old)); n != 1 {
		return nil, fmt.Errorf("%q is %d times in %s, and not once", e.old, n, e.file)
	}
	return bytes.Replace(text, []byte(e.old), []byte(e.new), 1), nil
}

// broken returns the files of the library that the mutant changes, by name.
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

// build builds this program over the mutant, and returns its path.
func (m *mutant) build(ctx context.Context, source, dir string) (program string, err error) {
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
	_, err = output(exec.CommandContext(ctx, "go", "build", "-overlay", overlay, "-o", program, library+"/chaos"))
	return program, err
}

// output runs a command, and returns its output, or an error with what it said.
func output(cmd *exec.Cmd) ([]byte, error) {
	var said bytes.Buffer
	cmd.Stderr = &said
	out, err := cmd.Output()
	if err != nil {
		err = fmt.Errorf("%s: %w\n%s", strings.Join(cmd.Args, " "), err, said.Bytes())
	}
	return out, err
}
