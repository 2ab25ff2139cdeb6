package protocol

import (
	"strings"
	"testing"
)

// slot returns the hash slot of a key in a cluster: CRC-16/XMODEM of its hash
// tag, modulo 16384, by the Redis Cluster specification.
func slot(key string) uint16 {
	if _, rest, ok := strings.Cut(key, "{"); ok {
		if tag, _, ok := strings.Cut(rest, "}"); ok && tag != "" {
			key = tag
		}
	}
	var crc uint16
	for i := range len(key) {
		crc ^= uint16(key[i]) << 8
		for range 8 {
			if crc&0x8000 != 0 {
				crc = crc<<1 ^ 0x1021
			} else {
				crc <<= 1
			}
		}
	}
	return crc % 16384
}

func TestSlot(t *testing.T) { // the values are those of CLUSTER KEYSLOT
	for key, want := range map[string]uint16{
		"123456789": 12739, "foo": 12182, "{foo}bar": 12182, "a{foo}{bar}": 12182,
	} {
		if got := slot(key); got != want {
			t.Errorf("slot(%q) = %d, want %d", key, got, want)
		}
	}
}

// Promise: one slot. All keys of a lock are in the slot of the lock's key. No
// two locks share a key.
func TestPromiseOneSlot(t *testing.T) {
	owner := map[string]string{}
	for _, key := range []string{
		"invoice:42", "invoice:{42}", "invoice:{42}:lock", "{42}", "42", "a{b",
		"a{", "{{a}}", "{a}{b}", "}{a}",
		"größe", "a b", "a\x00b", ":", "warlock:{a}", "fence", strings.Repeat("k", 64<<10),
	} {
		names, err := keys(key)
		if err != nil {
			t.Errorf("%.20q: %v", key, err)
			continue
		}
		if names[0] != key {
			t.Errorf("the key %.20q was changed to %.20q", key, names[0])
		}
		for _, name := range names {
			if slot(name) != slot(key) {
				t.Errorf("%.20q is not in the slot of %.20q", name, key)
			}
			if other, taken := owner[name]; taken {
				t.Errorf("%.20q belongs to both %.20q and %.20q", name, other, key)
			}
			owner[name] = key
		}
	}
}

func TestUnusableKeys(t *testing.T) {
	for key, says := range map[string]string{
		"":      "key is empty",
		"a{}b":  "hash tag",
		"{}{a}": "hash tag",
		"a}b":   "hash tag",
		"}{":    "hash tag",

		"warlock:{a}:fence": "fence of another lock",
		"{a}:warlock:fence": "fence of another lock",
	} {
		_, err := keys(key)
		if err == nil {
			t.Errorf("key %q is taken", key)
			continue
		}
		if text := err.Error(); !strings.HasPrefix(text, prefix) || !strings.Contains(text, says) ||
			!strings.Contains(text, Quote(key)) && key != "" {
			t.Errorf("key %q: %q", key, text)
		}
	}
}

func TestQuoteCutsLongKeys(t *testing.T) {
	want := `"` + strings.Repeat("k", 128) + `"... (65536 bytes)`
	if got := Quote(strings.Repeat("k", 64<<10)); got != want {
		t.Errorf("got %s", got)
	}
}
