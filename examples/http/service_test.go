package main

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/warlock-go/warlock"
	"github.com/warlock-go/warlock/warlocktest"
)

// start starts a service on r, whose payments are made by pay.
func start(
	t *testing.T, r *warlocktest.Redis, pay func(context.Context, string) error,
) (s *service, metrics http.Handler) {
	t.Helper()
	observer, metrics, err := newMetrics()
	if err != nil {
		t.Fatal(err)
	}
	s = newService(r.Client(), pay, observer, warlock.WithOwner("web-1"))
	t.Cleanup(s.leave)
	return s, metrics
}

// ask sends a request to pay, and returns the answer.
func ask(s *service, id string) *httptest.ResponseRecorder {
	answer := httptest.NewRecorder()
	s.ServeHTTP(answer, httptest.NewRequest("POST", "/invoices/"+id+"/pay", nil))
	return answer
}

// want fails the test unless the answer has that status, and says that.
func want(t *testing.T, answer *httptest.ResponseRecorder, status int, says string) {
	t.Helper()
	if answer.Code != status || !strings.Contains(answer.Body.String(), says) {
		t.Errorf("the answer is %d %q, want %d and %q", answer.Code, answer.Body, status, says)
	}
}

func paid(context.Context, string) error { return nil }

func TestPay(t *testing.T) {
	warlocktest.Bubble(t, func(t *testing.T, r *warlocktest.Redis) {
		s, _ := start(t, r, paid)
		want(t, ask(s, "42"), http.StatusOK, "paid")
		want(t, ask(s, "42"), http.StatusOK, "paid")
	})
}

// The answer comes after 200 ms, and names who has the invoice.
func TestPayWhileAnotherProcessPays(t *testing.T) {
	warlocktest.Bubble(t, func(t *testing.T, r *warlocktest.Redis) {
		s, _ := start(t, r, paid)
		clerk := warlock.NewMutex(r.Client(), "invoice:42", ttl, warlock.WithOwner("clerk 3"))
		clerk.Lock()
		began := time.Now()
		want(t, ask(s, "42"), http.StatusConflict, "in use by clerk 3")
		if took := time.Since(began); took != maxWait {
			t.Errorf("the answer took %v, want %v", took, maxWait)
		}
		clerk.Unlock()
		want(t, ask(s, "42"), http.StatusOK, "paid")
	})
}

// The work ends when the lock is lost, and the client may ask again.
func TestPayWhoseLockIsStolen(t *testing.T) {
	warlocktest.Bubble(t, func(t *testing.T, r *warlocktest.Redis) {
		s, _ := start(t, r, func(ctx context.Context, id string) error {
			r.Steal("invoice:" + id)
			<-ctx.Done()
			if !errors.Is(context.Cause(ctx), warlock.ErrLeaseLost) {
				t.Errorf("the cause is %v", context.Cause(ctx))
			}
			return ctx.Err()
		})
		want(t, ask(s, "42"), http.StatusServiceUnavailable, "try again later")
	})
}

func TestPayWhileRedisIsDown(t *testing.T) {
	warlocktest.Bubble(t, func(t *testing.T, r *warlocktest.Redis) {
		s, _ := start(t, r, paid)
		r.Down()
		want(t, ask(s, "42"), http.StatusServiceUnavailable, "try again later")
		r.Up()
		want(t, ask(s, "42"), http.StatusOK, "paid")
	})
}

func TestPayThatFails(t *testing.T) {
	warlocktest.Bubble(t, func(t *testing.T, r *warlocktest.Redis) {
		s, _ := start(t, r, func(context.Context, string) error { return errors.New("no money") })
		want(t, ask(s, "42"), http.StatusInternalServerError, "the payment failed")
	})
}

// The metrics name the group of locks, and no invoice.
func TestMetrics(t *testing.T) {
	warlocktest.Bubble(t, func(t *testing.T, r *warlocktest.Redis) {
		s, metrics := start(t, r, paid)
		release := r.Hold("invoice:7")
		ask(s, "42")
		ask(s, "7")
		release()
		dump := httptest.NewRecorder()
		metrics.ServeHTTP(dump, httptest.NewRequest("GET", "/metrics", nil))
		text := dump.Body.String()
		for _, part := range []string{
			`warlock_lock_wait_duration_seconds_count{`, `warlock_lock_name="invoices"`,
			`warlock_lock_outcome="acquired"`, `warlock_lock_outcome="not_acquired"`,
			`warlock_lock_held`, `warlock_lock_waiting`,
		} {
			if !strings.Contains(text, part) {
				t.Errorf("the metrics do not have %s:\n%s", part, text)
			}
		}
		if strings.Contains(text, "invoice:") {
			t.Errorf("the metrics name an invoice:\n%s", text)
		}
	})
}
