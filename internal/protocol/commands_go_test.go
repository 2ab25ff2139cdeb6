package protocol_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"go/ast"
	"go/constant"
	"go/importer"
	"go/parser"
	"go/token"
	"go/types"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

// A pack is a package, as go list describes it.
type pack struct {
	ImportPath, Dir, Export string
	GoFiles, EmbedFiles     []string
	Module                  *struct{ Main bool }
}

// packs has the packages of which a program consists that imports the library.
type packs struct {
	own     []pack            // of the library, each after those that it imports
	exports map[string]string // the compiled form of each by its path
}

// list returns the package in dir and all that it imports.
func list(t *testing.T, dir string) packs {
	t.Helper()
	const fields = "-json=ImportPath,Dir,Export,GoFiles,EmbedFiles,Module"
	cmd := exec.Command("go", "list", "-deps", "-export", fields, ".")
	cmd.Dir = dir
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	found := packs{exports: make(map[string]string)}
	for decoder := json.NewDecoder(strings.NewReader(string(out))); ; {
		var p pack
		if err := decoder.Decode(&p); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
		found.exports[p.ImportPath] = p.Export
		if p.Module != nil && p.Module.Main {
			found.own = append(found.own, p)
		}
	}
	if len(found.own) < 2 {
		t.Fatalf("go list finds %d packages of the library", len(found.own))
	}
	return found
}

// goCheck goes over one package.
type goCheck struct {
	files    *token.FileSet
	info     types.Info
	scripts  []script
	problems []string
}

// checkGo returns the scripts in the Go code of p, and each use of a command in
// that code that the oldest server does not know.
func (all packs) checkGo(t *testing.T, p pack) (scripts []script, problems []string) {
	t.Helper()
	c := &goCheck{files: token.NewFileSet()}
	parsed := c.parse(t, all, p)
	for _, file := range parsed {
		for _, declaration := range file.Decls {
			within := ""
			if f, ok := declaration.(*ast.FuncDecl); ok {
				within = f.Name.Name
			}
			ast.Inspect(declaration, func(n ast.Node) bool { c.look(n, within); return true })
		}
	}
	return c.scripts, c.problems
}

// parse returns the files of p, and notes what each name in them means.
func (c *goCheck) parse(t *testing.T, all packs, p pack) (parsed []*ast.File) {
	t.Helper()
	for _, name := range p.GoFiles {
		path := filepath.Join(p.Dir, name)
		file, err := parser.ParseFile(c.files, path, nil, parser.SkipObjectResolution)
		if err != nil {
			t.Fatal(err)
		}
		parsed = append(parsed, file)
	}
	lookup := func(path string) (io.ReadCloser, error) { return os.Open(all.exports[path]) }
	config := types.Config{Importer: importer.ForCompiler(c.files, "gc", lookup)}
	c.info = types.Info{
		Uses:  make(map[*ast.Ident]types.Object),
		Types: make(map[ast.Expr]types.TypeAndValue),
	}
	if _, err := config.Check(p.ImportPath, c.files, parsed, &c.info); err != nil {
		t.Fatal(err)
	}
	return parsed
}

// look checks one node, which is within a function of that name.
func (c *goCheck) look(n ast.Node, within string) {
	switch n := n.(type) {
	case *ast.Ident:
		c.name(n, within)
	case *ast.CallExpr:
		c.command(n)
	case *ast.BasicLit:
		text, _ := strconv.Unquote(n.Value) // a number is no text
		if strings.Contains(text, "redis.call") || strings.Contains(text, "redis.pcall") {
			c.scripts = append(c.scripts, script{c.files.Position(n.Pos()).String(), text})
		}
	}
}

// name checks the use of a function. A function of go-redis that takes a
// context may send a command.
func (c *goCheck) name(n *ast.Ident, within string) {
	f, ok := c.info.Uses[n].(*types.Func)
	const goRedis = "github.com/redis/go-redis/"
	if !ok || f.Pkg() == nil || !strings.HasPrefix(f.Pkg().Path(), goRedis) || !takesContext(f) {
		return
	}
	name, ok := sends[f.Name()]
	switch {
	case !ok:
		c.problem(n, f.Name()+" may send a command that is not in the table of what go-redis sends")
	case f.Name() == "NewCmd" && within != "command":
		c.problem(n, "NewCmd is called outside of command, whose commands are looked at")
	case name != "":
		for _, problem := range check(name, nil) {
			c.problem(n, problem)
		}
	}
}

func takesContext(f *types.Func) bool {
	for v := range f.Signature().Params().Variables() {
		if v.Type().String() == "context.Context" {
			return true
		}
	}
	return false
}

// command checks a call of command, whose second argument is what it sends.
func (c *goCheck) command(call *ast.CallExpr) {
	var callee *ast.Ident
	switch f := call.Fun.(type) {
	case *ast.Ident:
		callee = f
	case *ast.SelectorExpr:
		callee = f.Sel
	}
	if callee == nil || callee.Name != "command" || len(call.Args) < 2 {
		return
	}
	value := c.info.Types[call.Args[1]].Value
	if value == nil || value.Kind() != constant.String {
		c.problem(call, "the command is no constant")
		return
	}
	for _, problem := range check(constant.StringVal(value), nil) {
		c.problem(call, problem)
	}
}

func (c *goCheck) problem(at ast.Node, what string) {
	c.problems = append(c.problems, fmt.Sprintf("%v: %s", c.files.Position(at.Pos()), what))
}
