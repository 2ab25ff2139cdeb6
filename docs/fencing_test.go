package docs_test

import (
	"database/sql"
	"os"
	"regexp"
	"testing"

	_ "modernc.org/sqlite"
)

// TestSQLOfThePackageComment runs the SQL of the package comment: the write of a
// later holder stays, and a fence cannot be NULL.
func TestSQLOfThePackageComment(t *testing.T) {
	comment, err := os.ReadFile("../doc.go")
	fatalIf(t, err)
	statement := func(pattern string) string {
		found := regexp.MustCompile(pattern).FindSubmatch(comment)
		if found == nil {
			t.Fatalf("the package comment has no %s", pattern)
		}
		plain := regexp.MustCompile(`(?m)^//`).ReplaceAllString(string(found[1]), "")
		return regexp.MustCompile(`\$(\d)`).ReplaceAllString(plain, "?$1") // for SQLite
	}
	db, err := sql.Open("sqlite", ":memory:")
	fatalIf(t, err)
	t.Cleanup(func() { _ = db.Close() })
	db.SetMaxOpenConns(1) // each connection would have a database of its own
	for _, pattern := range []string{`(?s)(CREATE TABLE .*?\n//\t\))`, `(?m)(INSERT INTO .*)$`} {
		_, err := db.ExecContext(t.Context(), statement(pattern))
		fatalIf(t, err)
	}
	update := statement(`"(UPDATE [^"]*)"`)

	const total = 100
	for _, write := range []struct{ fence, rows int64 }{{early, 1}, {late, 1}, {late, 1}, {early, 0}} {
		result, err := db.ExecContext(t.Context(), update, total, write.fence)
		fatalIf(t, err)
		if rows, err := result.RowsAffected(); rows != write.rows || err != nil {
			t.Errorf("the write with %d changes %d rows, %v, want %d", write.fence, rows, err, write.rows)
		}
	}
	if _, err := db.ExecContext(t.Context(), update, total, nil); err != nil {
		t.Errorf("a write without a token: %v, want no change", err)
	}
	if _, err := db.ExecContext(t.Context(), "UPDATE invoice SET fence = NULL"); err == nil {
		t.Error("the column takes NULL")
	}
}
