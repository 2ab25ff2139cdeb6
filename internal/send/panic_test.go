package send_test

import (
	"context"
	"testing"

	"github.com/redis/go-redis/v9"

	"github.com/warlock-go/warlock/internal/send"
)

// A function that the user gave a client of a cluster panics when a Sender looks
// for the server of a command. The panic becomes the command's error, as any other
// does: on a goroutine of the library it would end the process.
func TestPanicOfClusterSlots(t *testing.T) {
	slots := func(context.Context) ([]redis.ClusterSlot, error) { panic("slots") }
	client := redis.NewClusterClient(&redis.ClusterOptions{ClusterSlots: slots})
	defer client.Close()
	for name, s := range map[string]send.Sender{"direct": send.Direct(client), "pipeline": send.NewPipeline(client)} {
		t.Run(name, func(t *testing.T) {
			defer func() {
				if v := recover(); v != nil {
					t.Errorf("Send panics: %v", v)
				}
			}()
			cmd := redis.NewCmd(t.Context(), "evalsha", "hash", 1, "key")
			if err := s.Send(t.Context(), cmd, send.Way{}); !send.IsPanic(err) {
				t.Errorf("Send: %v, want a Panic", err)
			}
		})
	}
}
