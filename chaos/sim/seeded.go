package sim

import "math/rand/v2"

// newWorldChance returns the source of the names of mailboxes.
func newWorldChance(p *Plan) *rand.Rand { return rand.New(rand.NewPCG(p.Seed, 1)) }

// seeded reads chance as bytes.
type seeded struct{ *rand.Rand }

func (s *seeded) Read(p []byte) (int, error) {
	for i := range p {
		p[i] = byte(s.Uint64())
	}
	return len(p), nil
}
