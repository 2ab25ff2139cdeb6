package protocol_test

import (
	"strings"
	"testing"

	"github.com/warlock-go/warlock/internal/protocol"
)

// An ID names its owner, whatever flag it has, and only an ID of this library does.
func TestOwnerOf(t *testing.T) {
	const unique = "5f0c5b6e-8c3c-4f3e-9d6b-0d9d0e6f3b1a:12"
	for _, owner := range []string{
		"api-7/4711", "a b  c", "100%", "%20", "r", "m", "a:b", "/", strings.Repeat("~", protocol.MaxOwner),
	} {
		id := unique + protocol.Label(owner)
		if strings.Contains(id, " ") {
			t.Errorf("the ID %q has a space", id)
		}
		for _, id := range []string{id, protocol.Retaining(id), unique + "m" + protocol.Label(owner)} {
			if got := protocol.OwnerOf(id); got != owner {
				t.Errorf("the owner of %q is %q, want %q", id, got, owner)
			}
		}
		if retaining := protocol.Retaining(id); !protocol.Retains(retaining) || protocol.Retains(id) {
			t.Errorf("%q and %q: retains %v and %v", id, retaining, protocol.Retains(id), protocol.Retains(retaining))
		}
		if former := protocol.Former(id, 77); protocol.OwnerOf(former) != "" || former == id {
			t.Errorf("an ID that holds nothing is %q", former)
		}
	}
	for _, id := range []string{
		"", unique, "/a", "x/a", unique + "x/a", unique[:36] + "/a", unique[:37] + "/a", "5F" + unique[2:] + "/a",
		strings.ReplaceAll(unique, "-", "0") + "/a", unique + "/" + strings.Repeat("a", 65), unique + "/a\n",
		unique + "/caf\u00e9",
	} {
		if got := protocol.OwnerOf(id); got != "" {
			t.Errorf("the owner of %q is %q, want none", id, got)
		}
	}
}
