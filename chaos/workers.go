package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"sync"
	"syscall"
	"time"

	"github.com/warlock-go/warlock/chaos/judge"
)

// workers are the worker processes of a run, one in each slot.
type workers struct {
	testbed  *testbed
	program  string // what the processes run: this program, or a mutant
	recorder *judge.Recorder
	newJob   func(process, slot int) *job
	running  []*workerProcess // by slot

	mu       sync.Mutex // guards the following
	problems []string   // what workers did that they should not do
}

// A workerProcess is a worker as its parent process sees it.
type workerProcess struct {
	number int
	cmd    *exec.Cmd
	stdin  io.WriteCloser
	stderr bytes.Buffer

	killed bool          // by this program; guarded by workers.mu
	ended  chan struct{} // closed after the worker's last message
	gone   chan struct{} // closed after the end of the process
	left   *leftovers    // set before ended is closed
}

// start starts a worker in a slot.
func (ws *workers) start(slot int) {
	number := ws.recorder.Start(slot, now())
	text, err := json.Marshal(ws.newJob(number, slot))
	ws.testbed.must(err)
	p := &workerProcess{number: number, ended: make(chan struct{}), gone: make(chan struct{})}
	p.cmd = exec.Command(ws.program)
	p.cmd.Env = append(os.Environ(), jobVar+"="+string(text))
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	p.cmd.Stderr = &p.stderr
	p.stdin, err = p.cmd.StdinPipe()
	ws.testbed.must(err)
	out, err := p.cmd.StdoutPipe()
	ws.testbed.must(err)
	ws.testbed.must(p.cmd.Start())
	ws.running[slot] = p
	go ws.record(p, out) // ends with the process
}

// record records a worker's messages until the end of its process.
func (ws *workers) record(p *workerProcess, out io.Reader) {
	defer close(p.gone)
	messages := json.NewDecoder(out)
	for {
		var m message
		if messages.Decode(&m) != nil {
			break
		}
		switch {
		case m.Op != nil:
			ws.recorder.Op(m.Op)
		case m.Request != nil:
			ws.recorder.Request(m.Request)
		case m.Left != nil:
			p.left = m.Left
			close(p.ended)
		}
	}
	err := p.cmd.Wait()
	ws.recorder.End(p.number, now())
	ws.mu.Lock()
	defer ws.mu.Unlock()
	if err != nil && !p.killed {
		ws.addProblemLocked("worker %d: %v\n%s", p.number, err, p.stderr.Bytes())
	}
}

// kill ends the worker of a slot with SIGKILL.
func (ws *workers) kill(slot int) {
	p := ws.running[slot]
	ws.noteKill(p)
	ws.recorder.End(p.number, now())
	_ = p.cmd.Process.Kill() // fails if the process has ended, which record notes
	<-p.gone
}

// noteKill keeps record from reporting the end of p as a problem.
func (ws *workers) noteKill(p *workerProcess) {
	ws.mu.Lock()
	defer ws.mu.Unlock()
	p.killed = true
}

// signal sends a signal to the worker of a slot.
func (ws *workers) signal(slot int, s syscall.Signal) {
	_ = ws.running[slot].cmd.Process.Signal(s) // fails as in kill
}

// finish tells all workers to end their load, and waits for them. It kills
// workers that take longer than limit, and notes them.
func (ws *workers) finish(limit time.Duration) {
	for _, p := range ws.running {
		_, _ = io.WriteString(p.stdin, "stop\n") // fails if the process has ended
	}
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	for _, p := range ws.running {
		select {
		case <-p.ended:
			ws.noteLeftovers(p)
		case <-p.gone:
		case <-ctx.Done():
			ws.killStuck(p)
		}
	}
}

// killStuck kills a worker that does not end, and notes what its goroutines do.
func (ws *workers) killStuck(p *workerProcess) {
	ws.noteKill(p)
	_ = p.cmd.Process.Signal(syscall.SIGQUIT)
	select {
	case <-p.gone:
	case <-time.After(5 * time.Second):
		_ = p.cmd.Process.Kill()
		<-p.gone
	}
	ws.mu.Lock()
	defer ws.mu.Unlock()
	ws.addProblemLocked("worker %d does not come to an end:\n%s", p.number, p.stderr.Bytes())
}

// noteLeftovers notes what a worker left behind.
func (ws *workers) noteLeftovers(p *workerProcess) {
	ws.mu.Lock()
	defer ws.mu.Unlock()
	if p.left.Goroutines != "" {
		ws.addProblemLocked("worker %d leaves goroutines:\n%s", p.number, p.left.Goroutines)
	}
	if p.left.IDs > 0 {
		ws.addProblemLocked("worker %d: its Keyed has %d IDs in use", p.number, p.left.IDs)
	}
}

func (ws *workers) addProblemLocked(format string, args ...any) {
	ws.problems = append(ws.problems, fmt.Sprintf(format, args...))
}

// wait lets the workers exit, and waits for the ends of their processes.
func (ws *workers) wait() {
	for _, p := range ws.running {
		_ = p.stdin.Close()
	}
	for _, p := range ws.running {
		<-p.gone
	}
}

// killAll kills all workers.
func (ws *workers) killAll() {
	for slot, p := range ws.running {
		if p != nil {
			ws.kill(slot)
		}
	}
}

// violations returns the problems, as a judge's violations.
func (ws *workers) violations() []judge.Violation {
	ws.mu.Lock()
	defer ws.mu.Unlock()
	f := &judge.Findings{Judge: "workers"}
	for _, what := range ws.problems {
		f.Add(judge.AllKeys, "%s", what)
	}
	return f.Violations
}
