package serve

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/cdproto/log"
	"github.com/chromedp/cdproto/page"
	"github.com/chromedp/cdproto/runtime"
	"github.com/chromedp/chromedp"

	"github.com/warlock-go/warlock"
	"github.com/warlock-go/warlock/internal/redistest"
)

// A browser is a headless Chromium.
type browser struct{ ctx context.Context }

// startBrowser starts a Chromium, which ends with the test. Without a program
// chromium in PATH it skips the test, or fails it if WARLOCK_REQUIRE_CHROMIUM is 1.
func startBrowser(t *testing.T) *browser {
	t.Helper()
	program, err := exec.LookPath("chromium")
	if err != nil {
		if os.Getenv("WARLOCK_REQUIRE_CHROMIUM") == "1" {
			t.Fatal("there is no chromium in PATH, and WARLOCK_REQUIRE_CHROMIUM=1")
		}
		t.Skip("there is no chromium in PATH: install it to run this test")
	}
	options := append(chromedp.DefaultExecAllocatorOptions[:], chromedp.ExecPath(program),
		chromedp.NoSandbox, // Chromium has none for root, as whom tests run in containers
		chromedp.WSURLReadTimeout(3*redistest.Patience),
	)
	allocated, cancel := chromedp.NewExecAllocator(t.Context(), options...)
	t.Cleanup(cancel)
	ctx, cancel := chromedp.NewContext(allocated)
	t.Cleanup(cancel)
	if err := chromedp.Run(ctx); err != nil {
		t.Fatal(err)
	}
	return &browser{ctx}
}

// A tab is a page in a browser. The test fails if the console of the tab has an
// error, unless the test forgives it.
type tab struct {
	*testing.T
	ctx context.Context

	mu       sync.Mutex // guards problems
	problems []string
}

// The widths of screens.
const (
	desktop = 1280
	phone   = 360
)

// open opens address in a new tab, which is closed with the test.
func (b *browser) open(t *testing.T, address string, width int64, scheme string) *tab {
	t.Helper()
	ctx, cancel := chromedp.NewContext(b.ctx)
	t.Cleanup(cancel)
	p := &tab{T: t, ctx: ctx}
	chromedp.ListenTarget(ctx, p.hear)
	if err := chromedp.Run(ctx); err != nil { // the tab ends with the context of its first Run
		t.Fatal(err)
	}
	p.run(
		log.Enable(),
		emulation.SetFocusEmulationEnabled(true), // a tab behind others shows nothing live
		emulation.SetDeviceMetricsOverride(width, 800, 1, width == phone),
		emulation.SetEmulatedMedia().WithFeatures(
			[]*emulation.MediaFeature{{Name: "prefers-color-scheme", Value: scheme}}),
		chromedp.Navigate(address),
	)
	t.Cleanup(func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		for _, problem := range p.problems {
			t.Errorf("the console of %s says: %s", address, problem)
		}
	})
	return p
}

// hear notes what the console says. A violation of the policy is an entry, too.
func (p *tab) hear(event any) {
	var problem string
	switch e := event.(type) {
	case *runtime.EventExceptionThrown:
		problem = e.ExceptionDetails.Error()
	case *runtime.EventConsoleAPICalled:
		problem = string(e.Type)
	case *log.EventEntryAdded:
		if e.Entry.Level == log.LevelVerbose {
			return // advice
		}
		problem = fmt.Sprint(e.Entry.Level, ": ", e.Entry.Text, " ", e.Entry.URL)
	default:
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.problems = append(p.problems, problem)
}

// forgive forgets what the console has said.
func (p *tab) forgive() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.problems = nil
}

func (p *tab) run(actions ...chromedp.Action) {
	p.Helper()
	ctx, cancel := context.WithTimeout(p.ctx, redistest.Patience)
	defer cancel()
	if err := chromedp.Run(ctx, actions...); err != nil {
		p.Fatal(err)
	}
}

// eval returns the value of an expression, as text.
func (p *tab) eval(expression string) (value string) {
	p.Helper()
	p.run(chromedp.Evaluate("String("+expression+")", &value))
	return value
}

// shows waits until the texts of the visible elements of a selector are as wanted.
func (p *tab) shows(selector, wanted string) {
	p.Helper()
	p.until(fmt.Sprintf(`[...document.querySelectorAll(%q)].filter(e => e.checkVisibility())`+
		`.map(e => e.innerText).join("|")`, selector), wanted)
}

// until waits until the value of an expression is as wanted.
func (p *tab) until(expression, wanted string) {
	p.Helper()
	var last string
	defer func() {
		if last != wanted {
			p.Logf("%s was %q, and not %q", expression, last, wanted)
		}
	}()
	redistest.Eventually(p, func() bool {
		last = p.eval(expression)
		return last == wanted
	}, "%s is %q", expression, wanted)
}

// shot saves a picture of the tab, if WARLOCK_SHOTS names a folder for it.
func (p *tab) shot(name string) {
	p.Helper()
	folder := os.Getenv("WARLOCK_SHOTS")
	if folder == "" {
		return
	}
	var picture []byte
	p.run(page.BringToFront(), chromedp.CaptureScreenshot(&picture))
	if err := os.WriteFile(filepath.Join(folder, name+".png"), picture, 0o644); err != nil {
		p.Fatal(err)
	}
}

// TestPages runs one browser for all of its parts.
func TestPages(t *testing.T) {
	b := startBrowser(t)
	for name, test := range map[string]func(*testing.T, *browser){
		"a lock lives":   testLockLives,
		"a lock breaks":  testLockBreaks,
		"newer holder":   testNewerHolderKeepsTheLock,
		"looks":          testLooks,
		"search":         testSearch,
		"focus":          testFocusStays,
		"strange texts":  testStrangeTexts,
		"login":          testLogin,
		"below a path":   testBelowAPath,
		"trouble":        testTroubleIsShown,
		"pause":          testPause,
		"many locks":     testManyLocks,
		"a long queue":   testLongQueue,
		"names of parts": testPartsHaveNames,
	} {
		t.Run(name, func(t *testing.T) { test(t, b) })
	}
}

func testLockLives(t *testing.T, b *browser) {
	on := redistest.Start(t)
	s := start(t, on, Options{})
	p := b.open(t, s.base, desktop, "light")
	p.shows("#empty pre", "warlock run KEY -- command")
	m := hold(t, on, "invoice:42", "web-1/1")
	p.shows("#locks tbody th, #locks tbody td:nth-child(3)", "invoice:42|web-1/1")
	p.shows("#empty", "")
	queue(t, on, "invoice:42", "web-2/2", 1)
	queue(t, on, "invoice:42", "web-3/3", 2)
	p.shows("#locks tbody td:nth-child(6)", "2")

	p.run(chromedp.Click("#locks tbody a"))
	p.shows("h1", "invoice:42")
	p.shows("#holders tbody th", "web-1/1")
	p.shows("#queue tbody td:nth-child(2)", "web-2/2|web-3/3")
	m.Unlock()
	p.shows("#holders tbody th", "web-2/2")
	p.shows("#queue tbody th, #queue tbody td:nth-child(2)", "1|web-3/3")
	p.shows("#break", "") // it may not be broken
	p.run(chromedp.Click(".brand a"))
	p.shows("#locks tbody td:nth-child(6)", "1")
}

func testLockBreaks(t *testing.T, b *browser) {
	on := redistest.Start(t)
	s := start(t, on, Options{AllowBreak: true})
	hold(t, on, "deploy:api", "web-1/1")
	second := queue(t, on, "deploy:api", "web-2/2", 1)
	p := b.open(t, s.base+"/lock?key=deploy:api", desktop, "light")
	p.run(chromedp.Click("#break"))
	p.shows("#ask-key, #ask-holders li", "deploy:api|web-1/1")
	p.until("document.activeElement.innerText", "Cancel")
	p.shot("dialog")
	p.run(chromedp.Click("#ask-cancel"))
	p.until("document.getElementById('ask').open", "false")
	p.shows("#holders tbody th", "web-1/1")

	p.run(chromedp.Click("#break"), chromedp.Click("#ask-break"))
	p.shows("#result", "Freed: it was taken from web-1/1.")
	p.shows("#holders tbody th", "web-2/2")
	<-second
}

func testNewerHolderKeepsTheLock(t *testing.T, b *browser) {
	on := redistest.Start(t)
	s := start(t, on, Options{AllowBreak: true})
	m := hold(t, on, "deploy:api", "web-1/1")
	queue(t, on, "deploy:api", "web-2/2", 1)
	p := b.open(t, s.base+"/lock?key=deploy:api", desktop, "light")
	p.run(chromedp.Click("#break"))
	m.Unlock()
	p.shows("#holders tbody th", "web-2/2")
	p.run(chromedp.Click("#ask-break"))
	p.shows("#result", "No longer held by web-1/1: nothing was taken from it.")
	p.shows("#holders tbody th", "web-2/2")
}

// testLooks opens both pages in both colour schemes, on a wide and a narrow screen.
func testLooks(t *testing.T, b *browser) {
	on := redistest.Start(t)
	s := start(t, on, Options{AllowBreak: true})
	realistic(t, on)
	const narrow = "document.documentElement.scrollWidth <= innerWidth"
	const ground = "getComputedStyle(document.documentElement).backgroundColor"
	for _, look := range []struct {
		name, scheme, ground string
		width                int64
	}{
		{"light", "light", "rgb(253, 253, 252)", desktop},
		{"dark", "dark", "rgb(21, 24, 27)", desktop},
		{"phone", "light", "rgb(253, 253, 252)", phone},
		{"phone-dark", "dark", "rgb(21, 24, 27)", phone},
	} {
		for _, part := range []struct{ name, path, selector, text string }{
			{"list", "/", "#locks tbody tr:first-child th", "deploy:api"},
			{"lock", "/lock?key=deploy:api", "#holders tbody th", "ci-runner-2/881"},
		} {
			t.Run(part.name+" "+look.name, func(t *testing.T) {
				p := b.open(t, s.base+part.path, look.width, look.scheme)
				p.shows(part.selector, part.text)
				if got := p.eval(ground); got != look.ground {
					t.Errorf("the ground is %s", got)
				}
				if p.eval(narrow) != "true" {
					t.Error("it scrolls sideways")
				}
				p.shot(part.name + "-" + look.name)
			})
		}
	}
}

// realistic takes locks as users do.
func realistic(t *testing.T, on *redistest.Server) {
	t.Helper()
	for key, owner := range map[string]string{
		"invoice:42": "web-3/4711", "invoice:1077": "web-1/4692", "invoice:1078": "web-2/4655",
		"report:2026-11": "cron-1/30122", "deploy:api": "ci-runner-2/881",
		"mail:digest": "worker-7/912", "cache:warm:eu-west-1": "worker-2/655",
		"tenant:7/größe": "worker-4/318",
	} {
		hold(t, on, key, owner)
	}
	for i, owner := range []string{"ci-runner-1/902", "ci-runner-4/77", "ci-runner-3/1204"} {
		queue(t, on, "deploy:api", owner, i+1)
	}
	queue(t, on, "invoice:42", "web-1/4692", 1)
	queue(t, on, "invoice:42", "web-2/4655", 2)
	queue(t, on, "report:2026-11", "cron-2/29871", 1)
	for _, owner := range []string{"web-1/4692", "web-2/4655", "web-3/4711"} {
		m := warlock.NewRWMutex(on.Client(), "config:prices", ttl, warlock.WithOwner(owner))
		if err := m.RLockContext(within(t)); err != nil {
			t.Fatal(err)
		}
	}
}

func testSearch(t *testing.T, b *browser) {
	on := redistest.Start(t)
	s := start(t, on, Options{})
	for _, key := range []string{"invoice:1", "invoice:2", "report:1"} {
		hold(t, on, key, "owner-of-"+strings.ToUpper(key[:3])+"/1")
	}
	p := b.open(t, s.base+"/?q=invoice", desktop, "light")
	p.shows("#count", "2 of 3")
	p.until("document.querySelectorAll('#locks tbody th').length", "2")
	p.run(chromedp.SendKeys("#query", ":2"))
	p.shows("#locks tbody th", "invoice:2")
	p.until("location.search", "?q=invoice%3A2")
	p.eval("document.getElementById('query').value = ''")
	p.run(chromedp.SendKeys("#query", "of-rep"))
	p.shows("#locks tbody th", "report:1")
	p.run(chromedp.SendKeys("#query", "<b>"))
	p.shows("#none", "No lock matches “of-rep<b>”.")
	p.until("document.getElementById('spoken').textContent", "0 locks found")
}

// testFocusStays moves a row that has the focus.
func testFocusStays(t *testing.T, b *browser) {
	on := redistest.Start(t)
	s := start(t, on, Options{})
	for _, key := range []string{"a", "b", "c"} {
		hold(t, on, key, "web-1/1")
	}
	p := b.open(t, s.base, desktop, "light")
	p.shows("#count", "3")
	p.run(chromedp.Focus("#locks tbody tr:last-child a"))
	last := p.eval("document.activeElement.innerText")
	p.run(chromedp.Evaluate("window.blurs = 0; addEventListener('blur', () => blurs++, true)", nil))
	queue(t, on, last, "web-2/2", 1)
	p.shows("#locks tbody tr:first-child th", last)
	if got := p.eval("document.activeElement.innerText"); got != last || p.eval("blurs") != "0" {
		t.Errorf("the focus is on %q, and was on %q", got, last)
	}
}

// testStrangeTexts has strangers' markup and bytes in keys, owners and IDs.
func testStrangeTexts(t *testing.T, b *browser) {
	on := redistest.Start(t)
	s := start(t, on, Options{AllowBreak: true})
	const markup = "<img src=x onerror=alert(1)>"
	key := markup + everyByte()
	hold(t, on, key, markup)
	p := b.open(t, s.base, desktop, "light")
	p.shows("#locks tbody td:nth-child(3)", markup)
	p.run(chromedp.Click("#locks tbody a"))
	p.shows("#holders tbody th", markup)
	p.until("document.querySelectorAll('table img').length", "0")
	p.run(chromedp.Click("#break"), chromedp.Click("#ask-break"))
	p.shows("#result", "Freed: it was taken from "+markup+".")
	p.shows("#free", "Nobody holds this lock.")
}

func testLogin(t *testing.T, b *browser) {
	on := redistest.Start(t)
	s := start(t, on, Options{Token: token, AllowBreak: true})
	hold(t, on, "a/b", "web-1/1")
	p := b.open(t, s.base+"/lock?key=a%2Fb", desktop, "light")
	p.shows("label", "Token")
	p.shot("login")
	p.run(chromedp.SendKeys("#token", "wrong"), chromedp.Click("button"))
	p.shows("#wrong", "The token is wrong.")
	p.run(chromedp.SendKeys("#token", token), chromedp.Click("button"))
	p.shows("#holders tbody th", "web-1/1")
	p.until("location.search", "?key=a%2Fb")
	p.until("document.cookie", "")
	p.forgive() // the status 401 of the form
	p.run(chromedp.Click("#break"), chromedp.Click("#ask-break"))
	p.shows("#result", "Freed: it was taken from web-1/1.")
}

// testBelowAPath reaches the pages through a proxy that serves them below a path.
func testBelowAPath(t *testing.T, b *browser) {
	on := redistest.Start(t)
	s := start(t, on, Options{Token: token, AllowBreak: true, Hosts: []string{"127.0.0.1"}})
	hold(t, on, "a/b", "web-1/1")
	proxy := httptest.NewServer(http.StripPrefix("/locks", &httputil.ReverseProxy{
		Rewrite: func(r *httputil.ProxyRequest) {
			r.SetURL(&url.URL{Scheme: "http", Host: s.Listen})
			r.Out.Host = r.In.Host
		},
	}))
	t.Cleanup(proxy.Close)
	t.Cleanup(proxy.CloseClientConnections)
	p := b.open(t, proxy.URL+"/locks/", desktop, "light")
	p.run(chromedp.SendKeys("#token", token), chromedp.Click("button"))
	p.shows("#locks tbody th", "a/b")
	p.forgive() // the status 401 of the form
	p.run(chromedp.Click("#locks tbody a"))
	p.shows("#holders tbody th", "web-1/1")
	p.run(chromedp.Click("#break"), chromedp.Click("#ask-break"))
	p.shows("#result", "Freed: it was taken from web-1/1.")
	p.run(chromedp.Click(".brand a"))
	p.shows("h1", "Locks 0")
	p.until("location.pathname", "/locks/")
}

func testTroubleIsShown(t *testing.T, b *browser) {
	on := redistest.Start(t)
	s := start(t, on, Options{})
	hold(t, on, "a", "web-1/1")
	p := b.open(t, s.base, desktop, "light")
	p.shows("#locks tbody th", "a")
	on.Kill()
	p.until("document.getElementById('trouble').innerText.startsWith('Redis: ')", "true")
	p.shows("#locks tbody th", "a")
	p.shows("#state", "stale")
	p.shot("redis-away")
	on.Restart()
	p.shows("#trouble", "")
	s.stop()
	p.shows("#trouble", "Connection lost, trying again.")
	p.shows("#state", "lost")
	p.shot("lost")
	p.forgive() // that the server could not be reached
}

func testPause(t *testing.T, b *browser) {
	on := redistest.Start(t)
	s := start(t, on, Options{})
	p := b.open(t, s.base, desktop, "light")
	p.shows("#state", "live")
	p.run(chromedp.Click("#pause"))
	p.shows("#state", "paused")
	redistest.Eventually(t, func() bool {
		s.hub.mu.Lock()
		defer s.hub.mu.Unlock()
		return s.hub.count == 0
	}, "no stream is left")
	hold(t, on, "a", "web-1/1")
	p.shows("#locks tbody th", "")
	p.run(chromedp.Click("#pause"))
	p.shows("#locks tbody th", "a")
	p.shows("#trouble", "")
}

// many is more than a page shows.
const many = 1200

func testManyLocks(t *testing.T, b *browser) {
	on := redistest.Start(t)
	s := start(t, on, Options{})
	client := on.Client()
	for i := range many {
		m := warlock.NewMutex(client, fmt.Sprintf("invoice:%04d", i), ttl, warlock.WithOwner("web-1/1"))
		if err := m.LockContext(within(t)); err != nil {
			t.Fatal(err)
		}
	}
	p := b.open(t, s.base, desktop, "light")
	p.shows("#count", "1200")
	p.shows("#more", "and 1000 more: search for one")
	p.until("document.querySelectorAll('#locks tbody tr').length", "200")
	p.shot("many")
	var took float64 // ms
	p.run(chromedp.Evaluate(`(() => {
		const begin = performance.now();
		document.getElementById("query").dispatchEvent(new Event("input"));
		document.body.offsetHeight;
		return performance.now() - begin;
	})()`, &took))
	t.Logf("the page shows the list in %.1f ms", took)
	if took > 500 {
		t.Errorf("the page takes %.0f ms to show the list", took)
	}
}

func testLongQueue(t *testing.T, b *browser) {
	on := redistest.Start(t)
	s := start(t, on, Options{})
	hold(t, on, "a", "web-1/1")
	client := on.Client()
	for range many {
		m := warlock.NewMutex(client, "a", ttl, warlock.WithOwner("web-2/2"))
		go func() { _ = m.LockContext(t.Context()) }()
	}
	p := b.open(t, s.base+"/lock?key=a", desktop, "light")
	p.shows("#waiting", "1200")
	p.shows("#more-waiting", "and 1000 more")
	p.until("document.querySelectorAll('#queue tbody tr').length", "200")
}

// testPartsHaveNames looks for what a screen reader needs.
func testPartsHaveNames(t *testing.T, b *browser) {
	on := redistest.Start(t)
	s := start(t, on, Options{AllowBreak: true})
	hold(t, on, "a", "web-1/1")
	queue(t, on, "a", "web-2/2", 1)
	for _, address := range []string{s.base, s.base + "/lock?key=a"} {
		p := b.open(t, address, phone, "light")
		p.until("document.querySelectorAll('tbody tr').length > 0", "true")
		for what, expression := range parts {
			if p.eval(expression) != "true" {
				t.Errorf("%s lacks %s", address, what)
			}
		}
	}
}

// parts has what a screen reader needs, and the expression that is true where a page
// has it.
var parts = map[string]string{
	"one heading of the first level": `document.querySelectorAll("h1").length === 1`,
	"a main part":                    `document.querySelectorAll("main").length === 1`,
	"a language":                     `document.documentElement.lang === "en"`,
	"labels of inputs":               all("input", `e.labels.length === 1`),
	"names of buttons":               all("button", `e.textContent !== ""`),
	"names of tables": all("table",
		`e.ariaLabel || document.getElementById(e.getAttribute("aria-labelledby"))`),
	"heads of columns": all("thead th", `e.scope === "col" && e.textContent !== ""`),
	"heads of rows":    all("tbody tr", `e.cells[0].scope === "row"`),
	"quiet tables":     all("table", `!e.closest("[aria-live], [role=status], [role=alert]")`),
}

// all returns an expression that is true if a condition holds for each element e.
func all(selector, condition string) string {
	return fmt.Sprintf(`[...document.querySelectorAll(%q)].every(e => %s)`, selector, condition)
}
