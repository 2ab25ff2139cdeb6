package send

import (
	"errors"
	"fmt"
	"runtime/debug"

	"github.com/redis/go-redis/v9"
)

// ErrExited says that a hook of the client ended the goroutine of a command, as
// runtime.Goexit and testing's FailNow do. Whether the server carried out the
// command is not known.
var ErrExited = errors.New("a hook of the client ended its goroutine")

// A Panic is the error of a command during which a user's function, such as a
// hook of the client, panicked. Whether the server carried out the command is
// not known.
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

// IsPanic reports whether err is a Panic.
func IsPanic(err error) bool { return errors.As(err, new(*Panic)) }

// Broke reports whether err says that a hook of the client panicked or ended
// its goroutine.
func Broke(err error) bool { return IsPanic(err) || errors.Is(err, ErrExited) }

// Repanic panics with the value of the Panic that err is. It does nothing if
// err is none.
func Repanic(err error) {
	if p := (*Panic)(nil); errors.As(err, &p) {
		panic(p.Value)
	}
}
