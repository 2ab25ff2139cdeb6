package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/warlock-go/warlock/cmd/warlock/internal/serve"
)

// A serveCommand has the values of the flags of serve.
type serveCommand struct {
	*settings
	listen     string
	hosts      []string
	tokenFile  string
	allowBreak bool
}

func newServe(s *settings) *cobra.Command {
	c := &serveCommand{settings: s}
	cmd := &cobra.Command{
		Use:   "serve [PATTERN]",
		Short: "Show the busiest locks, their holders and queues in a browser",
		Long: `serve shows the locks that are held or waited for in a browser, live, until it is
interrupted. PATTERN is one of Redis for keys, such as "invoice:*".

A token protects the pages: each request must have it. Give it in a file, or in
$WARLOCK_TOKEN. A server that other machines can reach needs a token.`,
		Example: `  warlock serve
  warlock serve 'invoice:*' --allow-break
  warlock serve --listen :7379 --host locks.example.com --token-file /etc/warlock/token`,
		Args:              cobra.MaximumNArgs(1),
		ValidArgsFunction: completeKeys(s),
		RunE:              c.run,
	}
	flags := cmd.Flags()
	flags.StringVar(&c.listen, "listen", "127.0.0.1:7379", "listen at `ADDRESS`, a host and a port")
	flags.StringArrayVar(&c.hosts, "host", nil,
		"serve browsers that reach the server by `NAME`, such as that of a proxy; may be given again")
	flags.StringVar(&c.tokenFile, "token-file", "",
		"`FILE` with the token of the pages (default: the token is $WARLOCK_TOKEN)")
	flags.BoolVar(&c.allowBreak, "allow-break", false, "let the pages break locks")
	files := cobra.FixedCompletions(nil, cobra.ShellCompDirectiveDefault)
	if err := cmd.RegisterFlagCompletionFunc("token-file", files); err != nil {
		panic(err) // there is no such flag
	}
	return cmd
}

// run serves until a signal comes.
func (c *serveCommand) run(cmd *cobra.Command, args []string) error {
	host, token, err := c.check()
	if err != nil {
		return &exit{status: exitUsage, err: err}
	}
	client, err := c.client()
	if err != nil {
		return err
	}
	defer client.Close()
	listener, err := net.Listen("tcp", c.listen)
	if err != nil {
		return &exit{status: exitUnavailable, err: cannotListen(c.listen, err)}
	}
	_, port, _ := net.SplitHostPort(listener.Addr().String()) // has both
	server := serve.New(serve.Options{
		Client: client, Pattern: strings.Join(args, ""), Listen: net.JoinHostPort(host, port),
		Hosts: c.hosts, Token: token, AllowBreak: c.allowBreak, Logger: c.logger(cmd),
	})
	fmt.Fprintf(cmd.OutOrStdout(), "Listening at http://%s/\n", listener.Addr())
	ctx, stop := signal.NotifyContext(cmd.Context(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	context.AfterFunc(ctx, stop) // a second signal ends the process at once
	if err := server.Run(ctx, listener); err != nil {
		return &exit{status: exitUnavailable, err: err}
	}
	return nil
}

// cannotListen returns an error about an address at which net.Listen failed.
func cannotListen(listen string, err error) error {
	if errors.Is(err, syscall.EADDRINUSE) {
		return fmt.Errorf("%s is in use: stop the program that listens there, "+
			"or choose another port with --listen", listen)
	}
	return fmt.Errorf("cannot listen at %s: %w", listen, err)
}

// The lengths of a token (bytes). Nobody guesses one of the shortest.
const (
	shortestToken = 16
	longestToken  = 4 << 10
)

// check returns the host to listen at, and the token of the pages. The token is empty
// if none is given and none is needed.
func (c *serveCommand) check() (host, token string, err error) {
	host, _, err = net.SplitHostPort(c.listen)
	if err != nil {
		return "", "", fmt.Errorf("--listen wants a host and a port, such as 127.0.0.1:7379, "+
			"and not %q", c.listen)
	}
	from := "WARLOCK_TOKEN"
	if c.tokenFile != "" {
		from = c.tokenFile
		token, err = readToken(c.tokenFile)
	} else {
		token = os.Getenv(from)
	}
	switch {
	case err != nil:
		return "", "", err
	case token == "" && c.tokenFile != "":
		err = fmt.Errorf("%s is empty: put the token into it", from)
	case token == "" && !serve.Loopback(c.listen):
		err = fmt.Errorf("other machines can reach %s: protect the pages with a token, "+
			"by --token-file or WARLOCK_TOKEN", c.listen)
	case token != "" && len(token) < shortestToken, len(token) > longestToken:
		err = fmt.Errorf("the token of %s has %d bytes: it needs %d to %d, "+
			"such as those of openssl rand -hex 16", from, len(token), shortestToken, longestToken)
	}
	return host, token, err
}

// readToken returns what is in a file, without spaces and line ends around it.
func readToken(file string) (string, error) {
	f, err := os.Open(file)
	if err != nil {
		return "", err
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, longestToken+2)) // and a line end
	return strings.TrimSpace(string(text)), err
}
