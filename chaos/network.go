package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"time"

	"github.com/Shopify/toxiproxy/v2"
	"github.com/Shopify/toxiproxy/v2/toxics"
	"github.com/rs/zerolog"
)

// A network has a proxy for each pair of a worker and a server.
type network struct {
	testbed *testbed
	proxies [][]*toxiproxy.Proxy // by slot and address
	addrs   []string
}

func newNetwork(t *testbed, slots int, addrs []string) *network {
	n := &network{testbed: t, addrs: addrs, proxies: make([][]*toxiproxy.Proxy, slots)}
	server := toxiproxy.NewServer(toxiproxy.NewMetricsContainer(nil), zerolog.Nop())
	for slot := range slots {
		for i, addr := range addrs {
			p := toxiproxy.NewProxy(server, fmt.Sprintf("%d-%d", slot, i), "127.0.0.1:0", addr)
			t.must(p.Start())
			t.Cleanup(p.Stop)
			n.proxies[slot] = append(n.proxies[slot], p)
		}
	}
	return n
}

// proxiesOf returns the proxies of a slot, by the address that they lead to.
func (n *network) proxiesOf(slot int) map[string]string {
	m := make(map[string]string)
	for i, addr := range n.addrs {
		m[addr] = n.proxies[slot][i].Listen
	}
	return m
}

// lines are the lines of a network between the workers of the slots and the servers
// with these numbers.
type lines struct {
	slots   []int
	servers []int // nil: all
}

// ofSlots returns all lines of the slots.
func ofSlots(slots []int) lines { return lines{slots: slots} }

// eachProxy calls f for each proxy of the lines.
func (n *network) eachProxy(l lines, f func(*toxiproxy.Proxy)) {
	for _, slot := range l.slots {
		for server, p := range n.proxies[slot] {
			if l.servers == nil || slices.Contains(l.servers, server) {
				f(p)
			}
		}
	}
}

// cut closes the connections of the lines, and refuses new ones until mend.
func (n *network) cut(l lines) { n.eachProxy(l, func(p *toxiproxy.Proxy) { p.Stop() }) }

// mend ends what cut began.
func (n *network) mend(l lines) {
	n.eachProxy(l, func(p *toxiproxy.Proxy) {
		if !p.Enabled {
			n.testbed.must(p.Start())
		}
	})
}

// The directions of a proxy's stream.
const (
	requests = "upstream"
	replies  = "downstream"
)

// slow delays a direction.
func (n *network) slow(l lines, direction string, by, jitter time.Duration) {
	n.add(l, "latency", direction, &toxics.LatencyToxic{
		Latency: by.Milliseconds(), Jitter: jitter.Milliseconds(),
	})
}

// silence drops everything in a direction. The connections stay open.
func (n *network) silence(l lines, direction string) {
	n.add(l, "timeout", direction, new(toxics.TimeoutToxic))
}

// add adds a toxic to the proxies of the lines.
func (n *network) add(l lines, kind, direction string, attributes any) {
	text, err := json.Marshal(map[string]any{
		"type": kind, "stream": direction, "attributes": attributes,
	})
	n.testbed.must(err)
	n.eachProxy(l, func(p *toxiproxy.Proxy) {
		_, err := p.Toxics.AddToxicJson(bytes.NewReader(text))
		n.testbed.must(err)
	})
}

// restore ends slow and silence. It closes the connections that were silenced.
func (n *network) restore(l lines) {
	n.eachProxy(l, func(p *toxiproxy.Proxy) { p.Toxics.ResetToxics(context.Background()) })
}
