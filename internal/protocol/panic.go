package protocol

import (
	"errors"
	"fmt"
	"runtime/debug"

	"github.com/redis/go-redis/v9"
)

// ErrExited says that a hook of the client ended the goroutine of a request, as
// runtime.Goexit and testing's FailNow do. Whether the request was carried out
// is not known.
var ErrExited = errors.New("a hook of the client ended its goroutine")

// A Panic is what a hook of the client, or what else a user gave it to call, panicked with while a
// request was made. Whether the request was carried out is not known.
type Panic struct {
	Value any
	Stack []byte // of the goroutine that panicked
}

func (p *Panic) Error() string { return fmt.Sprintf("panic: %v\n\n%s", p.Value, p.Stack) }

func newPanic(v any) *Panic { return &Panic{Value: v, Stack: debug.Stack()} }

// catch, deferred, makes a panic the error of cmd.
func catch(cmd redis.Cmder) {
	if v := recover(); v != nil {
		cmd.SetErr(newPanic(v))
	}
}

// Broke reports whether err says that a hook of the client panicked, or ended its
// goroutine.
func Broke(err error) bool { return isPanic(err) || errors.Is(err, ErrExited) }

func isPanic(err error) bool { return errors.As(err, new(*Panic)) }

// Repanic panics with what a user's code panicked with, if that is what err is.
func Repanic(err error) {
	if p := (*Panic)(nil); errors.As(err, &p) {
		panic(p.Value)
	}
}
