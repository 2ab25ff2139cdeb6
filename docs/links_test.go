package docs_test

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

var (
	inlineLink = regexp.MustCompile(`\]\(([^)\s]+)\)`)
	namedLink  = regexp.MustCompile(`(?m)^\[[^]]+\]: (\S+)$`)
	heading    = regexp.MustCompile(`(?m)^#+ (.*)$`)
	noSlug     = regexp.MustCompile(`[^\p{L}\p{N} _-]`)
)

// TestLinks follows each link of these pages to a file or a heading.
func TestLinks(t *testing.T) {
	for _, page := range []string{
		"../README.md", "../CHANGELOG.md", "coming-from.md", "observing.md", "recipes.md", "cli.md",
		postgreSQLPage,
	} {
		text, err := os.ReadFile(page)
		fatalIf(t, err)
		links := inlineLink.FindAllStringSubmatch(string(text), -1)
		for _, link := range append(links, namedLink.FindAllStringSubmatch(string(text), -1)...) {
			if !strings.Contains(link[1], "://") {
				follow(t, page, link[1])
			}
		}
	}
}

func follow(t *testing.T, page, link string) {
	t.Helper()
	file, anchor, _ := strings.Cut(link, "#")
	target := page
	if file != "" {
		target = filepath.Join(filepath.Dir(page), file)
	}
	text, err := os.ReadFile(target)
	if err != nil {
		t.Errorf("%s links to %s: %v", page, link, err)
		return
	}
	if anchor != "" && !slices.Contains(anchors(string(text)), anchor) {
		t.Errorf("%s links to %s, which has no such heading", page, link)
	}
}

// anchors returns the anchors of the headings of a page.
func anchors(text string) (names []string) {
	for _, m := range heading.FindAllStringSubmatch(text, -1) {
		slug := noSlug.ReplaceAllString(strings.ToLower(m[1]), "")
		names = append(names, strings.ReplaceAll(slug, " ", "-"))
	}
	return names
}
