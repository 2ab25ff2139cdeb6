package main

import (
	"errors"
	"fmt"
	"log/slog"
	"runtime/debug"
	"strings"

	"github.com/redis/go-redis/v9"
	"github.com/spf13/cobra"

	"github.com/warlock-go/warlock/cmd/warlock/internal/connect"
)

// settings are the flags that all commands have.
type settings struct {
	source connect.Source
	log    bool
}

// newRoot returns the command warlock with all of its commands.
func newRoot() *cobra.Command {
	s := new(settings)
	root := &cobra.Command{
		Use:     "warlock",
		Version: version(),
		Short:   "Run commands under locks of Redis, and see who holds a lock",
		Long: `warlock runs a command while it holds a lock, so that one machine at a time runs it.
It shows who holds a lock, who waits for it, and frees locks of the dead.`,
		SilenceErrors: true,
		SilenceUsage:  true,
		Args:          cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			return &exit{status: exitUsage, err: errors.New(`no command is given: see "warlock help"`)}
		},
	}
	flags := root.PersistentFlags()
	flags.StringVar(&s.source.URL, "redis", "",
		"`URL` of Redis: redis://, rediss:// or unix:// "+
			"(default $WARLOCK_REDIS, $REDIS_URL, or redis://localhost:6379)")
	flags.StringVar(&s.source.User, "user", "", "user `NAME` of Redis (default $WARLOCK_USER)")
	flags.StringVar(&s.source.UserFile, "user-file", "",
		"`FILE` with the user of Redis (default $WARLOCK_USER_FILE)")
	flags.StringVar(&s.source.PasswordFile, "password-file", "",
		"`FILE` with the password of Redis (default $WARLOCK_PASSWORD_FILE; "+
			"the password itself may be in $WARLOCK_PASSWORD)")
	flags.BoolVar(&s.log, "log", false, "write what happens meanwhile to standard error")
	root.AddCommand(
		newRun(s), newList(s), newShow(s), newWait(s), newRelease(s), newBreak(s), newTop(s), newServe(s),
		newMan(),
	)
	completeFlags(root)
	return root
}

// version returns the version of the program, as Go has noted it.
func version() string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "unknown"
	}
	return info.Main.Version
}

// exactly has a command take these arguments, and no other.
func exactly(names ...string) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if len(args) != len(names) {
			return fmt.Errorf("%s takes %s: %d arguments are given",
				cmd.Name(), strings.Join(names, " and "), len(args))
		}
		return nil
	}
}

// client returns a client of Redis. The caller closes it.
func (s *settings) client() (redis.UniversalClient, error) {
	c, err := s.source.Open()
	if err != nil {
		return nil, &exit{status: exitUsage, err: err}
	}
	return c, nil
}

// logger returns where the library logs to.
func (s *settings) logger(cmd *cobra.Command) *slog.Logger {
	if !s.log {
		return slog.New(slog.DiscardHandler)
	}
	return slog.New(slog.NewTextHandler(cmd.ErrOrStderr(), nil))
}
