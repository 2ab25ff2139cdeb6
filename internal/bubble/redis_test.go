package bubble_test

import (
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/warlock-go/warlock"
	"github.com/warlock-go/warlock/internal/bubble"
)

func TestX(t *testing.T) {
	begin := time.Now()
	synctest.Test(t, func(t *testing.T) {
		r := bubble.Start()
		defer r.Close()
		c := r.Client()
		defer c.Close()
		m := warlock.NewMutex(c, "a", time.Second)
		for range 2000 {
			m.Lock()
			m.Unlock()
		}
		time.Sleep(2 * time.Second)
	})
	fmt.Println(time.Since(begin) / 2000)
}
