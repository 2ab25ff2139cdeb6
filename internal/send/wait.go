package send

import (
	"context"
	"time"
)

// Wait runs op, which sends commands, and returns its error. If ctx ends first,
// Wait returns the error of ctx. op then goes on by itself, and late yields its
// error.
//
// A ctx that never ends costs no goroutine.
func Wait(ctx context.Context, op func() error) (late <-chan error, err error) {
	if ctx.Done() == nil {
		return nil, op()
	}
	done := make(chan error, 2)
	go func() {
		defer func() { done <- ErrExited }() // nobody reads it if op returned
		done <- op()
	}()
	select {
	case err := <-done:
		return nil, err
	case <-ctx.Done():
		return done, ctx.Err()
	}
}

// WithoutDeadline returns ctx with its end and without its deadline. A command
// that was sent under it is read to its end, also by a client that keeps
// deadlines.
func WithoutDeadline(ctx context.Context) context.Context { return withoutDeadline{ctx} }

type withoutDeadline struct{ context.Context }

func (withoutDeadline) Deadline() (time.Time, bool) { return time.Time{}, false }

// Outlive returns a context that ends d of real time after ctx has ended, or
// when it is cancelled. The caller must cancel it.
func Outlive(ctx context.Context, d time.Duration) (context.Context, context.CancelFunc) {
	longer, cancel := context.WithCancel(context.WithoutCancel(ctx))
	if ctx.Done() == nil {
		return longer, cancel
	}
	stop := context.AfterFunc(ctx, func() {
		timer := time.AfterFunc(d, cancel)
		context.AfterFunc(longer, func() { timer.Stop() })
	})
	return longer, func() { stop(); cancel() }
}
