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
)

// A crew is the worker processes, one to a slot.
type crew struct {
	ground   *ground
	program  string // that is run: this one, or a mutant
	recorder *recorder
	newJob   func(process, slot int) *job
	members  []*member

	mu     sync.Mutex // guards the following
	faults []string   // what should not be
}

// A member is a worker, from outside.
type member struct {
	number int
	cmd    *exec.Cmd
	in     io.WriteCloser
	errors bytes.Buffer

	killed bool          // by the crew
	ended  chan struct{} // closed when it has said all, and its ending
	gone   chan struct{} // closed when its process is no more
	ending *ending
}

func (c *crew) start(slot int) {
	number := c.recorder.started(slot)
	text, err := json.Marshal(c.newJob(number, slot))
	c.ground.must(err)
	m := &member{number: number, ended: make(chan struct{}), gone: make(chan struct{})}
	m.cmd = exec.Command(c.program)
	m.cmd.Env = append(os.Environ(), jobVar+"="+string(text))
	m.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	m.cmd.Stderr = &m.errors
	m.in, err = m.cmd.StdinPipe()
	c.ground.must(err)
	out, err := m.cmd.StdoutPipe()
	c.ground.must(err)
	c.ground.must(m.cmd.Start())
	c.members[slot] = m
	go c.listen(m, out)
}

// listen takes down what a worker says until its process is no more.
func (c *crew) listen(m *member, out io.Reader) {
	defer close(m.gone)
	said := json.NewDecoder(out)
	for {
		var l line
		if said.Decode(&l) != nil {
			break
		}
		switch {
		case l.Op != nil:
			c.recorder.took(l.Op)
		case l.Request != nil:
			c.recorder.sent(l.Request)
		case l.End != nil:
			m.ending = l.End
			close(m.ended)
		}
	}
	err := m.cmd.Wait()
	c.recorder.ended(m.number)
	c.mu.Lock()
	defer c.mu.Unlock()
	if err != nil && !m.killed {
		c.faults = append(c.faults, fmt.Sprintf("worker %d: %v\n%s", m.number, err, m.errors.Bytes()))
	}
}

// kill ends the worker of a slot as kill -9 does.
func (c *crew) kill(slot int) {
	m := c.members[slot]
	c.mu.Lock()
	m.killed = true
	c.mu.Unlock()
	c.recorder.ended(m.number)
	_ = m.cmd.Process.Kill() // it may have ended by itself, which is found out elsewhere
	<-m.gone
}

// signal sends a signal to the worker of a slot.
func (c *crew) signal(slot int, s syscall.Signal) {
	_ = c.members[slot].cmd.Process.Signal(s) // as in kill
}

// finish tells all to come to an end, and waits until they have, though not for ever.
func (c *crew) finish(within time.Duration) {
	for _, m := range c.members {
		_, _ = io.WriteString(m.in, "stop\n") // it may be no more
	}
	limit, cancel := context.WithTimeout(context.Background(), within)
	defer cancel()
	for _, m := range c.members {
		select {
		case <-m.ended:
			c.check(m)
		case <-m.gone:
		case <-limit.Done():
			c.accuse(m)
		}
	}
}

// accuse notes that a worker does not end, and what its goroutines do.
func (c *crew) accuse(m *member) {
	c.mu.Lock()
	m.killed = true
	c.mu.Unlock()
	_ = m.cmd.Process.Signal(syscall.SIGQUIT)
	select {
	case <-m.gone:
	case <-time.After(5 * time.Second):
		_ = m.cmd.Process.Kill()
		<-m.gone
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.faults = append(c.faults, fmt.Sprintf("worker %d does not come to an end:\n%s", m.number, m.errors.Bytes()))
}

// check notes what a worker left behind.
func (c *crew) check(m *member) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if m.ending.Leak != "" {
		c.faults = append(c.faults, fmt.Sprintf("worker %d leaves goroutines:\n%s", m.number, m.ending.Leak))
	}
	if m.ending.IDs > 0 {
		c.faults = append(c.faults, fmt.Sprintf("worker %d: its Keyed has %d IDs in use", m.number, m.ending.IDs))
	}
}

// dismiss lets those that have come to an end exit.
func (c *crew) dismiss() {
	for _, m := range c.members {
		_ = m.in.Close()
	}
	for _, m := range c.members {
		<-m.gone
	}
}

// stop ends all at once.
func (c *crew) stop() {
	for slot, m := range c.members {
		if m != nil {
			c.kill(slot)
		}
	}
}

func (c *crew) found() []violation {
	c.mu.Lock()
	defer c.mu.Unlock()
	f := &finding{judge: "workers"}
	for _, what := range c.faults {
		f.add(allKeys, "%s", what)
	}
	return f.violations
}
