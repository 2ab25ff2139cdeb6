package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"time"

	"github.com/Shopify/toxiproxy/v2"
	"github.com/Shopify/toxiproxy/v2/toxics"
	"github.com/rs/zerolog"
)

// A network is what lies between workers and servers: for each pair of them a proxy.
type network struct {
	ground  *ground
	proxies [][]*toxiproxy.Proxy // by slot and address
	addrs   []string
}

func newNetwork(g *ground, slots int, addrs []string) *network {
	n := &network{ground: g, addrs: addrs, proxies: make([][]*toxiproxy.Proxy, slots)}
	server := toxiproxy.NewServer(toxiproxy.NewMetricsContainer(nil), zerolog.Nop())
	for slot := range slots {
		for i, addr := range addrs {
			p := toxiproxy.NewProxy(server, fmt.Sprintf("%d-%d", slot, i), "127.0.0.1:0", addr)
			g.must(p.Start())
			g.Cleanup(p.Stop)
			n.proxies[slot] = append(n.proxies[slot], p)
		}
	}
	return n
}

// through returns, for a slot, which proxy leads to which address.
func (n *network) through(slot int) map[string]string {
	m := make(map[string]string)
	for i, addr := range n.addrs {
		m[addr] = n.proxies[slot][i].Listen
	}
	return m
}

// each calls f for each proxy of the slots.
func (n *network) each(slots []int, f func(*toxiproxy.Proxy)) {
	for _, slot := range slots {
		for _, p := range n.proxies[slot] {
			f(p)
		}
	}
}

// cut closes the connections of the slots, and refuses new ones until they are mended.
func (n *network) cut(slots []int) { n.each(slots, func(p *toxiproxy.Proxy) { p.Stop() }) }

func (n *network) mend(slots []int) {
	n.each(slots, func(p *toxiproxy.Proxy) {
		if !p.Enabled {
			n.ground.must(p.Start())
		}
	})
}

// A direction of a proxy's stream.
const (
	requests = "upstream"
	replies  = "downstream"
)

// slow delays what goes in a direction.
func (n *network) slow(slots []int, direction string, by, jitter time.Duration) {
	n.add(slots, "latency", direction, &toxics.LatencyToxic{Latency: by.Milliseconds(), Jitter: jitter.Milliseconds()})
}

// silence lets nothing through in a direction, while connections stay.
func (n *network) silence(slots []int, direction string) {
	n.add(slots, "timeout", direction, new(toxics.TimeoutToxic))
}

func (n *network) add(slots []int, kind, direction string, attributes any) {
	text, err := json.Marshal(map[string]any{"type": kind, "stream": direction, "attributes": attributes})
	n.ground.must(err)
	n.each(slots, func(p *toxiproxy.Proxy) {
		_, err := p.Toxics.AddToxicJson(bytes.NewReader(text))
		n.ground.must(err)
	})
}

// restore lets everything through again. Connections that were silenced are closed.
func (n *network) restore(slots []int) {
	n.each(slots, func(p *toxiproxy.Proxy) { p.Toxics.ResetToxics(context.Background()) })
}
