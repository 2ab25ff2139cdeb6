package warlock_test

import (
	"cmp"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/warlock-go/warlock"
	"github.com/warlock-go/warlock/internal/redistest"
)

// pages are those whose statements these tests compare with the code.
var pages = []string{
	"CONTRIBUTING.md",
	"docs/design.md",
	"docs/guarantees.md",
	"docs/observing.md",
	"docs/operations.md",
	"docs/performance.md",
}

// page returns the text of a page.
func page(t *testing.T, name string) string {
	t.Helper()
	text, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// sources calls visit with each Go file of the root module whose name, as to
// whether it is a test's, is wanted.
func sources(t *testing.T, wanted func(name string) bool, visit func(*ast.File)) {
	t.Helper()
	files := token.NewFileSet()
	err := filepath.WalkDir(".", func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() {
			return skipOtherModule(path)
		}
		if filepath.Ext(path) != ".go" || !wanted(path) {
			return nil
		}
		file, err := parser.ParseFile(files, path, nil, parser.SkipObjectResolution)
		if err == nil {
			visit(file)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

// skipOtherModule returns fs.SkipDir for a folder that is not of the root
// module.
func skipOtherModule(folder string) error {
	if folder == "." {
		return nil
	}
	if _, err := os.Stat(filepath.Join(folder, "go.mod")); err == nil {
		return fs.SkipDir
	}
	switch name := filepath.Base(folder); {
	case name == "testdata", strings.HasPrefix(name, "."):
		return fs.SkipDir
	}
	return nil
}

func isTest(path string) bool   { return strings.HasSuffix(path, "_test.go") }
func isSource(path string) bool { return !isTest(path) }

// tests returns the names of all tests and benchmarks of the root module.
func tests(t *testing.T) map[string]bool {
	t.Helper()
	names := make(map[string]bool)
	sources(t, isTest, func(file *ast.File) {
		for _, decl := range file.Decls {
			if f, ok := decl.(*ast.FuncDecl); ok && f.Recv == nil && testName.MatchString(f.Name.Name) {
				names[f.Name.Name] = true
			}
		}
	})
	return names
}

var testName = regexp.MustCompile(`\b(Test|Benchmark)[A-Z]\w*`)

var (
	link    = regexp.MustCompile(`\]\(([^)]+)\)`)
	heading = regexp.MustCompile(`(?m)^#+ (.*)$`)
	noSlug  = regexp.MustCompile(`[^\p{L}\p{N} _-]`)
)

// Each link from a page to a file, or to a heading of a page, leads somewhere.
func TestPagesLink(t *testing.T) {
	for _, name := range pages {
		for _, m := range link.FindAllStringSubmatch(page(t, name), -1) {
			if strings.Contains(m[1], "://") {
				continue
			}
			file, anchor, _ := strings.Cut(m[1], "#")
			target := name
			if file != "" {
				target = filepath.Join(filepath.Dir(name), file)
			}
			if _, err := os.Stat(target); err != nil {
				t.Errorf("%s links to %s: %v", name, m[1], err)
			} else if anchor != "" && !slices.Contains(anchors(page(t, target)), anchor) {
				t.Errorf("%s links to %s, which has no such heading", name, m[1])
			}
		}
	}
}

// anchors returns what links to the headings of a page end with.
func anchors(text string) (names []string) {
	for _, m := range heading.FindAllStringSubmatch(text, -1) {
		slug := noSlug.ReplaceAllString(strings.ToLower(m[1]), "")
		names = append(names, strings.ReplaceAll(slug, " ", "-"))
	}
	return names
}

// Each file and folder that CONTRIBUTING says to start in exists.
func TestPageOfContributingNamesFiles(t *testing.T) {
	paths := regexp.MustCompile("`([a-z_/]+(?:\\.go|\\.md)|internal/[a-z]+)`")
	for line := range strings.Lines(page(t, "CONTRIBUTING.md")) {
		if !strings.HasPrefix(line, "| ") {
			continue
		}
		for _, m := range paths.FindAllStringSubmatch(line, -1) {
			if _, err := os.Stat(m[1]); err != nil {
				t.Error("CONTRIBUTING.md:", err)
			}
		}
	}
}

// Each test that a page names exists.
func TestPagesNameTests(t *testing.T) {
	exist := tests(t)
	for _, name := range pages {
		for _, test := range testName.FindAllString(page(t, name), -1) {
			if !exist[test] {
				t.Errorf("%s names %s, which does not exist", name, test)
			}
		}
	}
}

// Each test of a promise stands on the page of the promises, in backticks.
func TestPageOfGuaranteesIsComplete(t *testing.T) {
	guarantees := page(t, "docs/guarantees.md")
	promises := 0
	for _, test := range slices.Sorted(maps.Keys(tests(t))) {
		if !strings.HasPrefix(test, "TestPromise") {
			continue
		}
		promises++
		if !strings.Contains(guarantees, "- `"+test+"`\n") {
			t.Errorf("docs/guarantees.md does not name %s", test)
		}
	}
	if promises == 0 {
		t.Error("no test of a promise was found")
	}
}

// The access list on the page allows the commands that an error would ask for,
// and what wakes waiters; no more, and no less.
func TestPageListsThePermissions(t *testing.T) {
	want := []string{"publish", "subscribe", "pubsub|numsub"}
	for _, c := range strings.FieldsFunc(commandsOfScripts(t), func(r rune) bool { return r == ' ' || r == ',' }) {
		if c != "and" {
			want = append(want, strings.ToLower(c))
		}
	}
	var got []string
	for _, rule := range accessList(t) {
		if c, ok := strings.CutPrefix(rule, "+"); ok {
			got = append(got, c)
		}
	}
	slices.Sort(want)
	slices.Sort(got)
	if !slices.Equal(got, want) {
		t.Errorf("docs/operations.md allows\n%q, want\n%q", got, want)
	}
}

// accessList returns the words of the ACL command on the page.
func accessList(t *testing.T) []string {
	t.Helper()
	for line := range strings.Lines(page(t, "docs/operations.md")) {
		if strings.HasPrefix(line, "ACL SETUSER ") {
			return strings.Fields(line)
		}
	}
	t.Fatal("docs/operations.md has no ACL command")
	return nil
}

// commandsOfScripts returns the list of commands that errors advise to allow.
func commandsOfScripts(t *testing.T) string {
	t.Helper()
	const name = "internal/protocol/errors.go"
	file, err := parser.ParseFile(token.NewFileSet(), name, nil, parser.SkipObjectResolution)
	if err != nil {
		t.Fatal(err)
	}
	list := ""
	ast.Inspect(file, func(n ast.Node) bool {
		if c, ok := n.(*ast.ValueSpec); ok && c.Names[0].Name == "commands" {
			list = text(c.Values[0])
		}
		return true
	})
	if list == "" {
		t.Fatal(name + " has no constant named commands")
	}
	return list
}

// A user with the access list on the page can do all that a lock does, and the
// log has nothing to say about it.
func TestAccessListOfThePage(t *testing.T) {
	words := func(more ...any) []any {
		var all []any
		for _, w := range accessList(t) {
			all = append(all, w)
		}
		return append(all, more...)
	}
	t.Run("one server", func(t *testing.T) {
		s := redistest.Start(t)
		s.Do(words()...)
		login := func(o *redis.Options) { o.Username, o.Password = "billing", "secret" }
		passOn(t, s.Client(login), s.Client(login))
		readBoth(t, s.Client(login), s.Client(login))
	})
	t.Run("a quorum", func(t *testing.T) {
		passOnQuorum(t, words("+info", "~warlock:quorum:memory")) // as the page says
	})
	t.Run("a cluster", func(t *testing.T) {
		t.Parallel()
		a, b := redistest.StartNode(t), redistest.StartNode(t)
		redistest.Cluster(t, a, b)
		a.Do(words("+cluster|slots")...)
		b.Do(words("+cluster|slots")...)
		login := func() redis.UniversalClient {
			c := redis.NewClusterClient(&redis.ClusterOptions{
				Addrs: []string{a.Addr, b.Addr}, Username: "billing", Password: "secret",
			})
			t.Cleanup(func() { _ = c.Close() })
			return c
		}
		passOn(t, login(), login())
		readBoth(t, login(), login())
	})
}

// passOnQuorum lets a lock of a quorum, whose servers run the command access, pass from one
// client to another, which waits for it.
func passOnQuorum(t *testing.T, access []any) {
	t.Helper()
	s := startServers(t, 3)
	for _, server := range s {
		server.Do(access...)
	}
	login := func(o *redis.Options) { o.Username, o.Password = "billing", "secret" }
	mutex := func() *warlock.Mutex {
		return warlock.NewQuorumMutex(s.clients(login), key, time.Second, silent(t))
	}
	use(warlock.NewQuorumMutex(s.clients(), key, time.Second)) // it waits until they vote
	a, b := mutex(), mutex()
	lock(t, a)
	locked := result(func() error { return b.LockContext(within(t)) })
	awaitWaiting(t, s[0], key, 1)
	a.Unlock()
	if err := wait(t, locked, "lock"); err != nil {
		t.Fatal(err)
	}
	b.Unlock()
}

// silent returns an option by which each line of the log fails the test.
func silent(t *testing.T) warlock.Option {
	return warlock.WithLogger(slog.New(slog.NewTextHandler(complaint{t}, nil)))
}

type complaint struct{ *testing.T }

func (c complaint) Write(line []byte) (int, error) {
	c.Errorf("logged: %s", line)
	return len(line), nil
}

// passOn lets the lock pass from one client to another, which waits for it.
func passOn(t *testing.T, one, other redis.UniversalClient) {
	t.Helper()
	holder := warlock.NewMutex(one, key, long, silent(t))
	waiter := warlock.NewMutex(other, key, long, silent(t))
	if err := holder.LockContext(within(t)); err != nil {
		t.Fatal(err)
	}
	done := result(func() error { return waiter.LockContext(within(t)) })
	redistest.Eventually(t, func() bool { return queueLength(t, one) == 1 }, "the waiter is in the queue")
	if err := holder.Lease().Extend(within(t), long); err != nil {
		t.Error(err)
	}
	if err := holder.UnlockContext(within(t)); err != nil {
		t.Error(err)
	}
	if err := wait(t, done, "the waiter has the lock"); err != nil {
		t.Fatal(err)
	}
	if err := waiter.UnlockContext(within(t)); err != nil {
		t.Error(err)
	}
}

// readBoth lets two clients read together, and one of them write afterwards.
func readBoth(t *testing.T, one, other redis.UniversalClient) {
	t.Helper()
	a := warlock.NewRWMutex(one, key, long, silent(t))
	b := warlock.NewRWMutex(other, key, long, silent(t))
	for _, rw := range []*warlock.RWMutex{a, b} {
		if err := rw.RLockContext(within(t)); err != nil {
			t.Fatal(err)
		}
	}
	written := result(func() error { return a.LockContext(within(t)) })
	redistest.Eventually(t, func() bool { return queueLength(t, one) == 1 }, "the writer is in the queue")
	for _, rw := range []*warlock.RWMutex{a, b} {
		if err := rw.RUnlockContext(within(t)); err != nil {
			t.Error(err)
		}
	}
	if err := wait(t, written, "the writer has the lock"); err != nil {
		t.Fatal(err)
	}
	if err := a.UnlockContext(within(t)); err != nil {
		t.Error(err)
	}
}

func queueLength(t *testing.T, client redis.UniversalClient) int64 {
	t.Helper()
	n, err := client.ZCard(t.Context(), "warlock:{"+key+"}:queue").Result()
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// anyWord stands in a message of the log for what is only known when it is
// logged.
const anyWord = "\x00"

// text returns the string that an expression of literals makes, with anyWord
// for its other parts; and "" if it does not begin with a literal.
func text(e ast.Expr) string {
	switch e := e.(type) {
	case *ast.BasicLit:
		if s, err := strconv.Unquote(e.Value); e.Kind == token.STRING && err == nil {
			return s
		}
	case *ast.ParenExpr:
		return text(e.X)
	case *ast.BinaryExpr:
		left, right := text(e.X), text(e.Y)
		if left == "" || e.Op != token.ADD {
			return ""
		}
		return left + cmp.Or(right, anyWord)
	}
	return ""
}

// messages returns the messages that the library logs, as patterns: whatever
// begins as one and is given to a function that makes neither an error nor a
// panic.
func messages(t *testing.T) map[string]*regexp.Regexp {
	t.Helper()
	patterns := make(map[string]*regexp.Regexp)
	sources(t, isSource, func(file *ast.File) {
		ast.Inspect(file, func(n ast.Node) bool {
			call, ok := n.(*ast.CallExpr)
			if !ok || makesError(call) {
				return true
			}
			for _, arg := range call.Args {
				if m := text(arg); strings.HasPrefix(m, "warlock: ") {
					quoted := strings.ReplaceAll(regexp.QuoteMeta(m), anyWord, `\w+`)
					patterns[m] = regexp.MustCompile("^" + quoted + "$")
				}
			}
			return true
		})
	})
	return patterns
}

func makesError(call *ast.CallExpr) bool {
	switch f := call.Fun.(type) {
	case *ast.Ident:
		return f.Name == "panic"
	case *ast.SelectorExpr:
		return slices.Contains([]string{"New", "Errorf", "Sprintf", "HasPrefix"}, f.Sel.Name)
	}
	return false
}

// Each message that the library logs stands on the page, and no other.
func TestPageExplainsTheLog(t *testing.T) {
	logged := messages(t)
	if len(logged) == 0 {
		t.Fatal("no messages were found")
	}
	found := make(map[string]bool)
	for _, m := range regexp.MustCompile("(?m)^\\| `(warlock: [^`]*)`").FindAllStringSubmatch(page(t, "docs/operations.md"), -1) {
		known := false
		for source, pattern := range logged {
			if pattern.MatchString(m[1]) {
				known, found[source] = true, true
			}
		}
		if !known {
			t.Errorf("docs/operations.md explains %q, which is not logged", m[1])
		}
	}
	for source := range logged {
		if !found[source] {
			t.Errorf("docs/operations.md does not explain %q", strings.ReplaceAll(source, anyWord, "..."))
		}
	}
}

// A row is a line of a table: its cells by the titles of their columns. The
// first two cells say what the others are about.
type row struct {
	about [2]string
	cells map[string]string
}

// figures returns the rows of those tables of a page that are of cases of the
// bench.
func figures(text string) (rows []row) {
	var titles []string
	for line := range strings.Lines(text) {
		line = strings.TrimSpace(line)
		if !strings.HasPrefix(line, "| ") {
			titles = nil
			continue
		}
		cells := strings.Split(strings.Trim(line, "|"), "|")
		for i := range cells {
			cells[i] = strings.TrimSpace(cells[i])
		}
		switch {
		case titles == nil:
			titles = cells
		case titles[0] == "case" && cells[0] != "---":
			r := row{[2]string{cells[0], cells[1]}, make(map[string]string)}
			for i, title := range titles[2:] {
				r.cells[title] = cells[2+i]
			}
			rows = append(rows, r)
		}
	}
	return rows
}

// Each figure on the page is what the bench has measured.
func TestPageHasTheFiguresOfTheBench(t *testing.T) {
	measured := make(map[[2]string]map[string]string)
	for _, r := range figures(page(t, "bench/README.md")) {
		measured[r.about] = r.cells
	}
	shown := figures(page(t, "docs/performance.md"))
	if len(shown) == 0 {
		t.Fatal("no figures were found")
	}
	for _, r := range shown {
		for title, cell := range r.cells {
			if got, ok := measured[r.about][title]; !ok || got != cell {
				t.Errorf("docs/performance.md says %q of %q, %s; the bench measured %q", cell, r.about, title, got)
			}
		}
	}
}
