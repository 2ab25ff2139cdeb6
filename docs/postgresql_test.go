package docs_test

import (
	"errors"
	"fmt"
	"os"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	_ "github.com/jackc/pgx/v5/stdlib" // for the programs

	"github.com/warlock-go/warlock"
	"github.com/warlock-go/warlock/internal/redistest"
)

const postgreSQLPage = "postgresql.md"

// TestPostgreSQL checks what postgresql.md says, on a PostgreSQL of its own.
func TestPostgreSQL(t *testing.T) {
	s := startPostgreSQL(t)
	t.Run("programs", s.runPrograms)
	t.Run("statements", s.runStatements)
	t.Run("late write", s.refuseLateWrite)
	t.Run("isolation", s.raceAtEachLevel)
	t.Run("pause in a transaction", s.endIdleTransaction)
	t.Run("trigger", s.raceWithTrigger)
}

// runPrograms runs each program of the page in a database of its own.
func (s *pgServer) runPrograms(t *testing.T) {
	for _, p := range programs(t, postgreSQLPage) {
		t.Run(p.name, func(t *testing.T) {
			const address = "host=localhost dbname=billing"
			if !strings.Contains(p.source, address) {
				t.Fatalf("the program does not connect to %q", address)
			}
			p.source = strings.ReplaceAll(p.source, address, s.database(t))
			p.expectOutput(t, redistest.Start(t).Addr)
		})
	}
}

// A statement is a statement of SQL on a page.
type statement struct {
	sql    string
	result string // what the comment below says; "" if there is none
}

var sqlBlock = regexp.MustCompile("(?ms)^```sql\n(.*?)^```$")

// statements returns the statements on a page. A statement ends at the first
// semicolon that ends a line, but for lines that are indented.
func statements(t *testing.T, page string) (all []statement) {
	t.Helper()
	text, err := os.ReadFile(page)
	fatalIf(t, err)
	for _, block := range sqlBlock.FindAllSubmatch(text, -1) {
		sql := ""
		for line := range strings.Lines(string(block[1])) {
			if result, ok := strings.CutPrefix(line, "-- "); ok && sql == "" && len(all) > 0 {
				all[len(all)-1].result = strings.TrimSpace(result)
				continue
			}
			sql += line
			if strings.HasSuffix(line, ";\n") && !strings.HasPrefix(line, "\t") {
				all = append(all, statement{sql: sql})
				sql = ""
			}
		}
		if sql != "" {
			t.Errorf("%s has a statement without an end:\n%s", page, sql)
		}
	}
	return all
}

// runStatements runs the statements of the page, in their order.
func (s *pgServer) runStatements(t *testing.T) {
	conn := connect(t, s.database(t))
	execute(t, conn, "CREATE TABLE customer (id BIGINT PRIMARY KEY)") // which the reader has
	all := statements(t, postgreSQLPage)
	if len(all) == 0 {
		t.Fatal("the page has no statements")
	}
	for _, st := range all {
		if got := st.run(t, conn); got != st.result {
			t.Errorf("%s\nends with %q, and the page says %q", st.sql, got, st.result)
		}
	}
}

// run runs a statement and returns its result in the words of the page: an error,
// the rows and their values, or "" if the statement is not about rows.
func (s statement) run(t *testing.T, conn *pgx.Conn) string {
	t.Helper()
	rows, err := conn.Query(t.Context(), s.sql)
	fatalIf(t, err)
	values := ""
	for rows.Next() {
		row, err := rows.Values()
		fatalIf(t, err)
		values += ": " + fmt.Sprint(row...)
	}
	if pgErr, ok := errors.AsType[*pgconn.PgError](rows.Err()); ok {
		return "ERROR: " + pgErr.Message
	}
	fatalIf(t, rows.Err())
	tag := rows.CommandTag()
	switch n := tag.RowsAffected(); {
	case !tag.Select() && !tag.Insert() && !tag.Update() && !tag.Delete():
		return ""
	case n == 1:
		return "1 row" + values
	default:
		return fmt.Sprintf("%d rows", n) + values
	}
}

// find returns what a pattern's first group finds on the page.
func find(t *testing.T, pattern string) string {
	t.Helper()
	text, err := os.ReadFile(postgreSQLPage)
	fatalIf(t, err)
	found := regexp.MustCompile(pattern).FindSubmatch(text)
	if found == nil {
		t.Fatalf("%s has no %s", postgreSQLPage, pattern)
	}
	return string(found[1])
}

// The statements of the page's programs by which a holder writes. The token is $2.
const (
	updateOfPage = `"(UPDATE invoice SET [^"]*fence <= \$2)"`
	raiseOfPage  = "const raise = `([^`]*)`"
)

// tables makes a database with the tables of the page that have a fence, and with
// invoice 42. It returns the address.
func (s *pgServer) tables(t *testing.T) string {
	t.Helper()
	address := s.database(t)
	conn := connect(t, address)
	for _, pattern := range []string{
		`(?m)^(CREATE TABLE invoice [^;]*;)$`,
		`(?m)^(INSERT INTO invoice \(id, total\) [^;]*;)$`,
		`(?m)^(CREATE TABLE guard [^;]*;)$`,
	} {
		execute(t, conn, find(t, pattern))
	}
	return address
}

// refuseLateWrite lets a holder pause past its lease, until the next holder has
// written.
func (s *pgServer) refuseLateWrite(t *testing.T) {
	conn, update := connect(t, s.tables(t)), find(t, updateOfPage)
	redis := redistest.Start(t)
	const key, short = "invoice:42", 50 * time.Millisecond
	first := warlock.NewMutex(redis.Client(), key, short, warlock.WithoutRenewal())
	next := warlock.NewMutex(redis.Client(), key, ttl) // as in another process

	fatalIf(t, first.LockContext(t.Context()))
	paused := first.Lease()
	fatalIf(t, next.LockContext(t.Context())) // when the lease of the first has run out
	token := next.Lease().Fence()
	for _, write := range []struct {
		of, what     string
		total, fence int64
		rows         int64
	}{
		{"paused", "before the next holder writes", 100, paused.Fence(), 1},
		{"next", "after a late write", 200, token, 1},
		{"next", "for the second time", 300, token, 1},
		{"paused", "after the next holder has written", 400, paused.Fence(), 0},
	} {
		if rows := execute(t, conn, update, write.total, write.fence); rows != write.rows {
			t.Errorf("the %s holder's write %s changed %d rows, want %d",
				write.of, write.what, rows, write.rows)
		}
	}
	fatalIf(t, next.UnlockContext(t.Context()))
	if err := first.UnlockContext(t.Context()); !errors.Is(err, warlock.ErrLeaseLost) {
		t.Errorf("the paused holder unlocks: %v, want ErrLeaseLost", err)
	}
	var total, fence int64
	row := conn.QueryRow(t.Context(), "SELECT total, fence FROM invoice WHERE id = 42")
	fatalIf(t, row.Scan(&total, &fence))
	if total != 300 || fence != token {
		t.Errorf("the invoice has total %d and fence %d, want 300 and %d", total, fence, token)
	}
}

// A race is of two holders, whose transactions run the same statement at a time.
// The tokens are in the order in which the transactions come to the row.
type race struct {
	address   string
	statement string
	value     any // $1 of the statement
	level     pgx.TxIsoLevel
	tokens    [2]int64
}

const early, late = 1 << 52, 1<<52 + 1 // tokens

// run lets the second transaction begin first, and wait for the first one. It
// returns what the second one changed, and its SQLSTATE.
func (r race) run(t *testing.T) (rows int64, state string) {
	t.Helper()
	second, first := r.begin(t), r.begin(t)
	_, err := first.Exec(t.Context(), r.statement, r.value, r.tokens[0])
	fatalIf(t, err)
	var tag pgconn.CommandTag
	var waiting sync.WaitGroup
	t.Cleanup(waiting.Wait) // if the test has failed: its context ends the statement
	waiting.Go(func() {
		tag, err = second.Exec(t.Context(), r.statement, r.value, r.tokens[1])
	})
	r.waitForWaiter(t)
	fatalIf(t, first.Commit(t.Context()))
	waiting.Wait()
	if pgErr, ok := errors.AsType[*pgconn.PgError](err); ok {
		return 0, pgErr.Code
	}
	fatalIf(t, err)
	fatalIf(t, second.Commit(t.Context()))
	return tag.RowsAffected(), ""
}

func (r race) begin(t *testing.T) pgx.Tx {
	t.Helper()
	tx, err := connect(t, r.address).BeginTx(t.Context(), pgx.TxOptions{IsoLevel: r.level})
	fatalIf(t, err)
	return tx
}

// waitForWaiter returns when a transaction waits for another one to end.
func (r race) waitForWaiter(t *testing.T) {
	t.Helper()
	const waiters = `SELECT count(*) FROM pg_stat_activity
		WHERE datname = current_database() AND wait_event_type = 'Lock'`
	conn := connect(t, r.address)
	redistest.Eventually(t, func() bool {
		var n int
		fatalIf(t, conn.QueryRow(t.Context(), waiters).Scan(&n))
		return n == 1
	}, "a transaction waits")
}

// again is the SQLSTATE of a transaction that is to begin again.
const again = "40001"

// raceAtEachLevel checks what the page says of two transactions at one time: with
// the UPDATE of a row, and with the first write of a guard row.
func (s *pgServer) raceAtEachLevel(t *testing.T) {
	for level, state := range map[pgx.TxIsoLevel]string{
		pgx.ReadCommitted: "", pgx.RepeatableRead: again, pgx.Serializable: again,
	} {
		for tokens, rows := range map[[2]int64]int64{{late, early}: 0, {early, late}: 1} {
			t.Run(fmt.Sprint(level, tokens), func(t *testing.T) {
				row := race{s.tables(t), find(t, updateOfPage), int64(100), level, tokens}
				row.expect(t, rows, state)
				guard := race{s.tables(t), find(t, raiseOfPage), "invoice:42", level, tokens}
				guard.expect(t, rows, state)
			})
		}
	}
}

// expect runs the race. If the second transaction is to begin again, it does.
func (r race) expect(t *testing.T, rows int64, state string) {
	t.Helper()
	gotRows, gotState := r.run(t)
	if gotState == again {
		gotRows = execute(t, connect(t, r.address), r.statement, r.value, r.tokens[1])
	}
	if gotRows != rows || gotState != state {
		t.Errorf("%s\nchanges %d rows, SQLSTATE %q, want %d, %q",
			r.statement, gotRows, gotState, rows, state)
	}
}

// endIdleTransaction lets a holder pause inside its transaction.
func (s *pgServer) endIdleTransaction(t *testing.T) {
	address, raise := s.tables(t), find(t, raiseOfPage)
	setting := find(t, ` (idle_in_transaction_session_timeout=\w+)"`)
	paused := connect(t, address+" "+setting)
	var limit string
	row := paused.QueryRow(t.Context(), "SHOW idle_in_transaction_session_timeout")
	fatalIf(t, row.Scan(&limit))
	if !strings.HasSuffix(setting, "="+limit) {
		t.Errorf("a connection with %s has a limit of %s", setting, limit)
	}

	execute(t, paused, "BEGIN")
	execute(t, paused, raise, "invoice:42", early)
	execute(t, paused, "SET LOCAL idle_in_transaction_session_timeout = '10ms'")
	next := connect(t, address+" statement_timeout=20s")
	if rows := execute(t, next, raise, "invoice:42", late); rows != 1 {
		t.Errorf("the next holder changed %d rows, want 1", rows)
	}
	if _, err := paused.Exec(t.Context(), "COMMIT"); err == nil {
		t.Error("the paused holder has committed")
	}
}

// raceWithTrigger lets a write without a condition wait for that of a later
// holder. The trigger compares its token with the row as the later holder leaves
// it.
func (s *pgServer) raceWithTrigger(t *testing.T) {
	address := s.tables(t)
	conn := connect(t, address)
	execute(t, conn, find(t, `(?ms)^(CREATE FUNCTION .*?^\$\$;)$`))
	execute(t, conn, find(t, `(?ms)^(CREATE TRIGGER .*?;)$`))
	update, found := strings.CutSuffix(find(t, updateOfPage), " AND fence <= $2")
	if !found {
		t.Fatalf("the condition stands elsewhere in %s", update)
	}
	r := race{address, update, int64(100), pgx.ReadCommitted, [2]int64{late, early}}
	if rows, state := r.run(t); state != find(t, "The error has SQLSTATE `(\\w+)`") {
		t.Errorf("a late write without a condition changes %d rows, SQLSTATE %q", rows, state)
	}
}
