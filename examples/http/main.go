// Command http is a service that pays invoices. It locks the invoice for each
// request. A request waits for the lock for 200 ms at most, and is then answered
// with 409 and the name of the holder. Run several of it on one Redis.
//
// Its metrics, those of the locks among them, are at /metrics.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/redis/go-redis/v9"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "http:", err)
		os.Exit(1)
	}
}

// run serves until ctx ends.
func run(ctx context.Context) error {
	address := flag.String("redis", "localhost:6379", "address of Redis")
	listen := flag.String("listen", "localhost:8080", "address to serve at")
	work := flag.Duration("work", 50*time.Millisecond, "how long a payment takes")
	flag.Parse()

	client := redis.NewClient(&redis.Options{Addr: *address, ContextTimeoutEnabled: true})
	defer client.Close()
	pay := func(ctx context.Context, _ string) error { return pause(ctx, *work) }
	observer, metrics, err := newMetrics()
	if err != nil {
		return err
	}
	service := newService(client, pay, observer)
	defer service.leave()
	mux := http.NewServeMux()
	mux.Handle("/", service)
	mux.Handle("GET /metrics", metrics)

	listener, err := net.Listen("tcp", *listen)
	if err != nil {
		return err
	}
	fmt.Println("serving at", "http://"+listener.Addr().String())
	server := &http.Server{Handler: mux, ReadHeaderTimeout: 5 * time.Second}
	served := make(chan error, 1)
	go func() { served <- server.Serve(listener) }()
	select {
	case err := <-served:
		return err
	case <-ctx.Done():
	}
	patient, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	return errors.Join(server.Shutdown(patient), ignoreClosed(<-served))
}

func ignoreClosed(err error) error {
	if errors.Is(err, http.ErrServerClosed) {
		return nil
	}
	return err
}

// pause waits for d, or until ctx ends.
func pause(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
