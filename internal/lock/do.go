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
	unlock := func(ctx context.Context) error { return l.UnlockContext(ctx, mode) }
	return do(ctx, h, fn, unlock)
}

// do runs fn under h, and then unlock, also if fn panics.
func do(ctx context.Context, h *Hold, fn, unlock func(context.Context) error) (err error) {
	h.shown.Store(true)
	held := h.Context()
	ctx, cancel := context.WithCancelCause(ctx)
	stop := context.AfterFunc(held, func() { cancel(context.Cause(held)) })
	defer func() {
		stop()
		lost := errors.Is(context.Cause(ctx), ErrLeaseLost)
		cancel(nil)
		switch unlocked := unlock(ctx); {
		case errors.Is(unlocked, ErrLeaseLost) && lost && err != nil && onlyCancelled(err):
			err = fmt.Errorf("%w (so the work was ended: %v)", unlocked, err)
		case errors.Is(unlocked, ErrLeaseLost), errors.Is(unlocked, ErrNotHeld):
			err = errors.Join(err, unlocked)
		case unlocked != nil:
			h.grant.log().Warn("warlock: Do could not unlock", "error", unlocked)
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
