package lock

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
)

// names are what the methods of a mode are called.
var names = [...]struct{ try, unlock string }{
	Write: {"TryLock", "Unlock"},
	Read:  {"TryRLock", "RUnlock"},
}

// reportUnlock panics on ErrNotHeld and logs any other error of an unlock. It
// is for methods that return none.
func reportUnlock(log func() *slog.Logger, unlock string, err error) {
	switch {
	case errors.Is(err, ErrNotHeld):
		panic(err)
	case err != nil:
		log().Warn("warlock: "+unlock+" failed", "error", err)
	}
}

// Do locks, runs fn, and unlocks.
func (l *Lock) Do(ctx context.Context, mode Mode, fn func(context.Context) error) error {
	h, err := l.acquire(ctx, mode)
	if err != nil {
		return err
	}
	return do(ctx, h, fn, func(ctx context.Context) error { return l.endOf(ctx, h, mode) })
}

// TryDo is Do with one try. It reports whether fn ran.
func (l *Lock) TryDo(ctx context.Context, mode Mode, fn func(context.Context) error) (bool, error) {
	h, err := l.try(ctx, mode)
	if h == nil {
		return false, err
	}
	return true, do(ctx, h, fn, func(ctx context.Context) error { return l.endOf(ctx, h, mode) })
}

// endOf unlocks the lock that was locked with h.
func (l *Lock) endOf(ctx context.Context, h *Hold, mode Mode) error {
	_, err := l.unlockHold(ctx, h, mode)
	return err
}

// holdKey is the context key of the Hold under which a function runs.
type holdKey struct{}

// HoldFrom returns the Hold under which the function runs that Do, or TryDo, gave
// ctx, or nil.
func HoldFrom(ctx context.Context) *Hold {
	h, _ := ctx.Value(holdKey{}).(*Hold)
	return h
}

// do runs fn under h, and then unlock, also if fn panics.
func do(ctx context.Context, h *Hold, fn, unlock func(context.Context) error) error {
	return doUnder(context.WithValue(ctx, holdKey{}, h), []*Hold{h}, fn, unlock)
}

// doUnder runs fn under a context that ends with the first of holds, and then
// unlock, also if fn panics.
func doUnder(
	ctx context.Context, holds []*Hold, fn, unlock func(context.Context) error,
) (err error) {
	ctx, cancel := context.WithCancelCause(ctx)
	stops := make([]func() bool, len(holds))
	for i, h := range holds {
		h.shown.Store(true)
		held := h.Context()
		stops[i] = context.AfterFunc(held, func() { cancel(context.Cause(held)) })
	}
	defer func() {
		for _, stop := range stops {
			stop()
		}
		lost := errors.Is(context.Cause(ctx), ErrLeaseLost)
		cancel(nil)
		switch unlocked := unlock(ctx); {
		case errors.Is(unlocked, ErrLeaseLost) && lost && err != nil && onlyCancelled(err):
			err = fmt.Errorf("%w (so the work was ended: %v)", unlocked, err)
		case errors.Is(unlocked, ErrLeaseLost), errors.Is(unlocked, ErrNotHeld):
			err = errors.Join(err, unlocked)
		case unlocked != nil:
			holds[0].grant.log().Warn("warlock: Do could not unlock", "error", unlocked)
		}
	}()
	return fn(ctx)
}

// onlyCancelled reports whether err says nothing but that a context was
// cancelled, in whatever words.
func onlyCancelled(err error) bool {
	switch e := err.(type) {
	case interface{ Unwrap() error }:
		return onlyCancelled(e.Unwrap())
	case interface{ Unwrap() []error }:
		for _, part := range e.Unwrap() {
			if !onlyCancelled(part) {
				return false
			}
		}
		return true
	}
	return err == context.Canceled
}
