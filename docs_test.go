package warlock_test

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// pages are those whose statements these tests compare with the code.
var pages = []string{
	"docs/guarantees.md",
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

// skipOtherModule returns fs.SkipDir for a folder that is not of the root module.
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
