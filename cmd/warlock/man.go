package main

import (
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

func newMan() *cobra.Command {
	return &cobra.Command{
		Use:   "man",
		Short: "Print the manual page of all commands",
		Example: `  warlock man | man -l -
  warlock man > /usr/local/share/man/man1/warlock.1`,
		Args:              cobra.NoArgs,
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(cmd *cobra.Command, _ []string) error {
			_, err := io.WriteString(cmd.OutOrStdout(), manual(cmd.Root()))
			return err
		},
	}
}

// Sections of the manual beside those that the commands fill. A line that begins with
// two spaces is one of a list: its words before two more spaces are its term.
const (
	manualExit = `
  0  All went well. run: the command ended with 0.
  1  The answer is no: the lock is not held, or not by that ID.
  64  The command line is wrong, or a key or an address that it gives.
  69  Redis is away or refuses, or the lock cannot be had at all.
  70  The lease was lost while the command ran.
  74  The output cannot be written.
  75  Another had the lock until the wait ended.
  128 + n  Signal n ended warlock, or the command that it ran.
Otherwise run ends with the exit status of the command that it ran.`

	manualEnvironment = `
  WARLOCK_REDIS, REDIS_URL  The URL of Redis. --redis goes before both.
  WARLOCK_USER, WARLOCK_USER_FILE  The user of Redis, or a file with it.
  WARLOCK_PASSWORD, WARLOCK_PASSWORD_FILE  The password, or a file with it.
  WARLOCK_SENTINEL_USER, WARLOCK_SENTINEL_USER_FILE  The user of the Sentinels, or a file with it.
  WARLOCK_SENTINEL_PASSWORD, WARLOCK_SENTINEL_PASSWORD_FILE  Their password, or a file with it.
  WARLOCK_KEY, WARLOCK_ID, WARLOCK_FENCE  What a command that runs under locks gets.
  SSL_CERT_FILE, SSL_CERT_DIR  The certificates that are trusted for rediss:// (Unix).
  NO_COLOR  If it is set, top shows no colours.
The command line wins over the environment, and what is given beside a URL wins over that URL.
A URL is redis://USER:PASSWORD@HOST:PORT/DATABASE, rediss:// for TLS, or unix:///run/redis.sock.
Several hosts, with commas between them, are a Cluster; so is one with ?cluster=true.
With ?master=NAME the hosts are Sentinels.`

	manualSeeAlso = `\fBflock\fR(1), \fBredis\-cli\fR(1), \fBcrontab\fR(5), \fBsystemd.service\fR(5)`
)

// manual returns the manual page of root and its commands in the format of man(7). It
// has no date: the same program prints the same page.
func manual(root *cobra.Command) string {
	p := new(manualPage)
	p.macro("TH", strings.ToUpper(root.Name()), "1", "", root.Name(), "User Commands")
	p.macro("SH", "NAME")
	p.text(root.Name() + " - " + strings.ToLower(root.Short[:1]) + root.Short[1:])
	p.macro("SH", "SYNOPSIS")
	p.raw(`\fB` + escapeRoff(root.Name()) + `\fR \fICOMMAND\fR [\fIflags\fR] [\fIargument\fR...]`)
	p.macro("SH", "DESCRIPTION")
	p.text(root.Long)
	p.macro("SH", "OPTIONS")
	p.flags(root.PersistentFlags())
	p.macro("SH", "COMMANDS")
	for _, cmd := range commands(root) {
		p.command(cmd)
	}
	p.macro("SH", "EXIT STATUS")
	p.list(manualExit)
	p.macro("SH", "ENVIRONMENT")
	p.list(manualEnvironment)
	p.macro("SH", "EXAMPLES")
	p.examples(append([]*cobra.Command{root}, commands(root)...))
	p.macro("SH", "SEE ALSO")
	p.raw(manualSeeAlso)
	return p.String()
}

// commands returns the commands of root, but for help and hidden ones.
func commands(root *cobra.Command) []*cobra.Command {
	return slices.DeleteFunc(slices.Clone(root.Commands()), func(cmd *cobra.Command) bool {
		return !cmd.IsAvailableCommand()
	})
}

// A manualPage is being written.
type manualPage struct{ strings.Builder }

// raw writes a line that has its formatting.
func (p *manualPage) raw(line string) {
	if strings.HasPrefix(line, ".") || strings.HasPrefix(line, "'") {
		line = `\&` + line // it is no macro
	}
	p.WriteString(line + "\n")
}

// macro writes a macro with its arguments.
func (p *manualPage) macro(name string, args ...string) {
	p.WriteString("." + name)
	for _, arg := range args {
		fmt.Fprintf(p, ` "%s"`, escapeRoff(arg))
	}
	p.WriteString("\n")
}

// text writes paragraphs, with an empty line between two.
func (p *manualPage) text(text string) {
	for _, line := range strings.Split(strings.TrimSpace(text), "\n") {
		if line == "" {
			p.macro("PP")
		} else {
			p.words(line)
		}
	}
}

// words writes plain text, in lines of at most 79 characters.
func (p *manualPage) words(text string) {
	const longest = 79
	line := ""
	for _, word := range strings.Fields(escapeRoff(text)) {
		if line != "" && len(line)+1+len(word) > longest {
			p.raw(line)
			line = ""
		}
		line = strings.TrimSpace(line + " " + word)
	}
	p.raw(line)
}

// list writes a list of terms, and the paragraph that follows it.
func (p *manualPage) list(text string) {
	var after []string
	for _, line := range strings.Split(strings.Trim(text, "\n"), "\n") {
		item, ok := strings.CutPrefix(line, "  ")
		if !ok {
			after = append(after, line)
			continue
		}
		term, about, _ := strings.Cut(item, "  ")
		p.macro("TP")
		p.raw(`\fB` + escapeRoff(term) + `\fR`)
		p.words(about)
	}
	if len(after) > 0 {
		p.macro("PP")
		p.text(strings.Join(after, "\n"))
	}
}

// command writes about a command.
func (p *manualPage) command(cmd *cobra.Command) {
	name, args, _ := strings.Cut(cmd.Use, " ")
	var choices []string
	for _, sub := range cmd.Commands() {
		choices = append(choices, sub.Name())
	}
	p.macro("SS", strings.TrimSpace(name+" "+args+strings.Join(choices, " | ")))
	about := strings.TrimSpace(cmd.Long)
	if about == "" {
		about = cmd.Short + "."
	}
	p.text(about)
	p.flags(cmd.LocalNonPersistentFlags())
}

// flags writes about flags, but for --help, which all commands have.
func (p *manualPage) flags(flags *pflag.FlagSet) {
	flags.VisitAll(func(f *pflag.Flag) {
		if f.Hidden || f.Name == "help" {
			return
		}
		value, usage := pflag.UnquoteUsage(f)
		term := `\fB` + escapeRoff("--"+f.Name) + `\fR`
		if f.Shorthand != "" {
			term = `\fB` + escapeRoff("-"+f.Shorthand) + `\fR, ` + term
		}
		if value != "" {
			term += ` \fI` + escapeRoff(value) + `\fR`
		}
		if !slices.Contains([]string{"", "false", "[]", "0"}, f.DefValue) {
			usage += " (default " + f.DefValue + ")"
		}
		p.macro("TP")
		p.raw(term)
		p.words(usage)
	})
}

// examples writes the examples of commands as they are.
func (p *manualPage) examples(cmds []*cobra.Command) {
	between := false
	for _, cmd := range cmds {
		if cmd.Example == "" {
			continue
		}
		if between {
			p.macro("PP")
		}
		between = true
		p.macro("nf")
		p.macro("RS", "4")
		for _, line := range strings.Split(strings.Trim(cmd.Example, "\n"), "\n") {
			p.raw(escapeRoff(strings.TrimPrefix(line, "  ")))
		}
		p.macro("RE")
		p.macro("fi")
	}
}

// escapeRoff returns text for a line of man(7).
func escapeRoff(text string) string {
	return strings.NewReplacer(
		`\`, `\e`, "-", `\-`, "'", `\(aq`, "`", `\(ga`, "^", `\(ha`, "~", `\(ti`, `"`, `\(dq`,
	).Replace(text)
}
