package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/warlock-go/warlock"
)

const (
	ttl     = 10 * time.Second
	maxWait = 200 * time.Millisecond // for the lock; the work may take longer
)

// A service pays invoices, each at most once at a time in all processes.
type service struct {
	http.Handler
	invoices *warlock.Keyed
	pay      func(ctx context.Context, id string) error // does the work
}

// newService returns a service whose locks have these options, too.
func newService(
	client redis.UniversalClient, pay func(context.Context, string) error, observer warlock.Observer,
	opts ...warlock.Option,
) *service {
	opts = append(opts, warlock.WithMaxWait(maxWait), warlock.WithName("invoices"),
		warlock.WithObserver(observer),
		// The requests for an invoice mostly meet the same process.
		warlock.WithRetention(time.Second))
	s := &service{invoices: warlock.NewKeyed(client, "invoice:", ttl, opts...), pay: pay}
	mux := http.NewServeMux()
	mux.HandleFunc("POST /invoices/{id}/pay", s.servePay)
	s.Handler = mux
	return s
}

// leave gives back the locks that stayed with this process.
func (s *service) leave() {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	_ = s.invoices.Yield(ctx) // else they expire
}

func (s *service) servePay(w http.ResponseWriter, r *http.Request) {
	id := r.PathValue("id")
	err := s.invoices.Do(r.Context(), id, func(ctx context.Context) error { return s.pay(ctx, id) })
	var busy *warlock.BusyError
	switch {
	case err == nil:
		fmt.Fprintln(w, "paid")
	case errors.As(err, &busy):
		http.Error(w, "in use by "+holder(busy), http.StatusConflict)
	case errors.Is(err, warlock.ErrBadKey):
		http.Error(w, "no such invoice", http.StatusNotFound)
	case errors.Is(err, warlock.ErrNotAcquired):
		http.Error(w, "in use", http.StatusConflict)
	case errors.Is(err, warlock.ErrUnavailable), errors.Is(err, warlock.ErrLeaseLost):
		w.Header().Set("Retry-After", "1")
		http.Error(w, "try again later", http.StatusServiceUnavailable)
	default:
		http.Error(w, "the payment failed", http.StatusInternalServerError)
	}
}

// holder names who has the lock.
func holder(busy *warlock.BusyError) string {
	if busy.Owner == "" {
		return "another program"
	}
	return busy.Owner
}
