package lock

import (
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// A Redis that does not answer is reported after silentFor, and then each
// logEvery for as long as that lasts.
func TestSilenceIsReportedAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var reports atomic.Int64
		w := silence{report: func() { reports.Add(1) }}
		after := func(d time.Duration, want int64) {
			t.Helper()
			time.Sleep(d) // by the bubble's clock
			synctest.Wait()
			if n := reports.Load(); n != want {
				t.Errorf("after %v more: %d reports, want %d", d, n, want)
			}
		}
		w.begin()
		after(silentFor-1, 0)
		after(1, 1)
		after(logEvery-1, 1)
		after(1, 2)
		after(logEvery, 3)
		w.end()
		after(2*logEvery, 3)

		w.begin() // a second outage
		after(silentFor, 4)
		w.end()
		w.begin()
		after(logEvery, 4) // there was an answer
		after(silentFor, 5)
		w.end()
		after(2*logEvery, 5)
		if w.armed.Load() {
			t.Error("the timer runs though nobody asks")
		}
	})
}
