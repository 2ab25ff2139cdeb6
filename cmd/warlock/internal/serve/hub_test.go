package serve

import (
	"context"
	"errors"
	"strconv"
	"sync/atomic"
	"testing"
	"testing/synctest"
)

// inHub runs test in a bubble, with a hub that ends with it.
func inHub(t *testing.T, most int, test func(t *testing.T, h *hub, stop func())) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		life, stop := context.WithCancel(context.Background())
		defer stop()
		h := newHub(life, most)
		test(t, h, stop)
		stop()
		h.close(context.Background())
		if len(h.feeds) != 0 {
			t.Errorf("the hub keeps %d feeds", len(h.feeds))
		}
	})
}

func subscribe(t *testing.T, h *hub, name string, run source) *subscriber {
	t.Helper()
	s, err := h.subscribe(name, run)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// idle is a source without messages. running counts it.
func idle(running *atomic.Int64) source {
	return func(ctx context.Context, _ func([]byte)) {
		running.Add(1)
		<-ctx.Done()
		running.Add(-1)
	}
}

func TestSourceRunsWhileThereAreSubscribers(t *testing.T) {
	inHub(t, 10, func(t *testing.T, h *hub, _ func()) {
		var running atomic.Int64
		expect := func(want int64, when string) {
			t.Helper()
			synctest.Wait()
			if n := running.Load(); n != want {
				t.Errorf("%s, %d sources run", when, n)
			}
		}
		a := subscribe(t, h, "a", idle(&running))
		b := subscribe(t, h, "a", idle(&running))
		expect(1, "with two subscribers of a name")
		c := subscribe(t, h, "c", idle(&running))
		expect(2, "with two names")
		h.leave(a)
		h.leave(c)
		expect(1, "with one subscriber")
		h.leave(b)
		expect(0, "without subscribers")
		h.leave(subscribe(t, h, "a", idle(&running)))
		expect(0, "after one more")
	})
}

func TestSourceDoesNotRunTwiceAtOnce(t *testing.T) {
	inHub(t, 10, func(t *testing.T, h *hub, _ func()) {
		slow := make(chan struct{})
		first := subscribe(t, h, "a", func(context.Context, func([]byte)) { <-slow })
		h.leave(first)
		var running atomic.Int64
		second := subscribe(t, h, "a", idle(&running))
		third := subscribe(t, h, "a", idle(&running))
		synctest.Wait()
		if running.Load() != 0 {
			t.Error("a source starts before the earlier one has ended")
		}
		close(slow)
		synctest.Wait()
		if n := running.Load(); n != 1 {
			t.Errorf("%d sources run", n)
		}
		h.leave(second)
		h.leave(third)
	})
}

func TestSlowSubscriberGetsTheNewestMessage(t *testing.T) {
	inHub(t, 10, func(t *testing.T, h *hub, _ func()) {
		s := subscribe(t, h, "a", func(ctx context.Context, show func([]byte)) {
			for i := range 100 {
				show([]byte(strconv.Itoa(i)))
			}
			<-ctx.Done()
		})
		synctest.Wait()
		late := subscribe(t, h, "a", nil)
		for _, sub := range []*subscriber{s, late} {
			if got := string(<-sub.news); got != "99" {
				t.Errorf("got message %s", got)
			}
			if len(sub.news) != 0 {
				t.Error("messages queue up")
			}
			h.leave(sub)
		}
	})
}

func TestMessagesOfAnEndedRunAreForgotten(t *testing.T) {
	inHub(t, 10, func(t *testing.T, h *hub, _ func()) {
		s := subscribe(t, h, "a", func(ctx context.Context, show func([]byte)) {
			show([]byte("old"))
			<-ctx.Done()
		})
		synctest.Wait()
		h.leave(s)
		var running atomic.Int64
		again := subscribe(t, h, "a", idle(&running))
		synctest.Wait()
		if len(again.news) != 0 {
			t.Errorf("got %s", <-again.news)
		}
		h.leave(again)
	})
}

func TestSubscribersAreBounded(t *testing.T) {
	inHub(t, 2, func(t *testing.T, h *hub, stop func()) {
		var running atomic.Int64
		a, b := subscribe(t, h, "a", idle(&running)), subscribe(t, h, "b", idle(&running))
		if _, err := h.subscribe("a", idle(&running)); !errors.Is(err, errCrowded) {
			t.Errorf("a third subscriber: %v", err)
		}
		h.leave(a)
		c := subscribe(t, h, "a", idle(&running))
		h.leave(b)
		h.leave(c)
		stop()
		h.close(context.Background())
		if _, err := h.subscribe("a", idle(&running)); !errors.Is(err, errClosed) {
			t.Errorf("after close: %v", err)
		}
	})
}

func TestCloseDoesNotWaitForEver(t *testing.T) {
	inHub(t, 2, func(t *testing.T, h *hub, stop func()) {
		stuck := make(chan struct{})
		h.leave(subscribe(t, h, "a", func(context.Context, func([]byte)) { <-stuck }))
		stop()
		ended, cancel := context.WithCancel(context.Background())
		cancel()
		h.close(ended)
		close(stuck)
	})
}
