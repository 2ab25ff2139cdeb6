package lock

import (
	"reflect"
	"testing"
	"time"

	"github.com/warlock-go/warlock/internal/redistest"
)

// An ask that gives its hold back, and ends before it asks again, leaves no ID with the
// mailbox.
func TestRestartLeavesNoID(t *testing.T) {
	l := newLock(redistest.StartMini(t).Client(), time.Minute, Options{})
	a := newAsk(&l.turns, Write)
	a.expect()
	a.queue()
	a.restart()
	a.end(t.Context())
	stripes := reflect.ValueOf(l.box.(box).Mailbox).Elem().FieldByName("expected")
	for i := range stripes.Len() {
		if n := stripes.Index(i).FieldByName("ids").Len(); n > 0 {
			t.Errorf("the mailbox expects %d IDs", n)
		}
	}
}
