package serve

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/hex"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// loginLasts is how long a browser is logged in.
const loginLasts = 12 * time.Hour

// A secret signs what the server gives to browsers and later gets back. It is new
// in each process.
type secret [32]byte

func newSecret() (s secret) {
	rand.Read(s[:]) // never fails
	return s
}

// sign returns a signature of text, which only this process can make.
func (s secret) sign(text string) string {
	mac := hmac.New(sha256.New, s[:])
	mac.Write([]byte(text))
	return hex.EncodeToString(mac.Sum(nil))
}

// pass returns the cookie's value of a browser that has logged in. The value does
// not have the token in it.
func (s secret) pass(now time.Time) string {
	until := strconv.FormatInt(now.Add(loginLasts).Unix(), 10)
	return until + "." + s.sign("pass "+until)
}

// passes reports whether value is of pass, and not over yet.
func (s secret) passes(value string, now time.Time) bool {
	until, signature, _ := strings.Cut(value, ".")
	seconds, err := strconv.ParseInt(until, 10, 64)
	return err == nil && same(signature, s.sign("pass "+until)) && now.Unix() < seconds
}

// forgeryToken returns what a POST must have in its header. A page of this server
// is told it; a stranger's page cannot read it.
func (s secret) forgeryToken() string { return s.sign("break") }

// same compares two texts in a time that says nothing about either.
func same(a, b string) bool {
	x, y := sha256.Sum256([]byte(a)), sha256.Sum256([]byte(b))
	return subtle.ConstantTimeCompare(x[:], y[:]) == 1
}

// bearer returns the token of an Authorization header, or "".
func bearer(header string) string {
	scheme, token, _ := strings.Cut(header, " ")
	if !strings.EqualFold(scheme, "Bearer") {
		return ""
	}
	return strings.TrimSpace(token)
}

// loggedIn reports whether r has the token, or a cookie that login has set.
func (s *Server) loggedIn(r *http.Request) bool {
	if s.Token == "" {
		return true
	}
	if token := bearer(r.Header.Get("Authorization")); token != "" {
		return same(token, s.Token)
	}
	cookie, err := r.Cookie(s.cookieName())
	return err == nil && s.secret.passes(cookie.Value, time.Now())
}

// cookieName has the port in it, since a browser sends a cookie to all ports of a
// host.
func (s *Server) cookieName() string {
	_, port := splitHost(s.Listen)
	return "warlock-" + port
}

// askToken answers a request that lacks the token. A browser that asks for a page
// gets the form for it.
func (s *Server) askToken(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("WWW-Authenticate", `Bearer realm="warlock"`)
	switch r.URL.Path {
	case "/", "/lock":
		serveForm(w, "login.html")
	default:
		http.Error(w, "the token is missing or wrong", http.StatusUnauthorized)
	}
}

// serveForm answers with a form of the token. Under no-referrer, a browser would send
// the form with the Origin "null", as a stranger's page can.
func serveForm(w http.ResponseWriter, name string) {
	w.Header().Set("Referrer-Policy", "same-origin")
	serveFile(w, http.StatusUnauthorized, name)
}

// mostForm is how long the form of the token may be (bytes).
const mostForm = 16 << 10

// login takes the form of the token, and sends the browser back to the page.
func (s *Server) login(w http.ResponseWriter, r *http.Request) {
	if !ownPage(r.Header, s.served) {
		http.Error(w, "the form was sent from another site", http.StatusForbidden)
		return
	}
	r.Body = http.MaxBytesReader(w, r.Body, mostForm)
	if token := r.PostFormValue("token"); s.Token == "" || !same(token, s.Token) {
		s.Logger.Warn("a login with a wrong token", "from", r.RemoteAddr)
		serveForm(w, "wrong.html")
		return
	}
	http.SetCookie(w, &http.Cookie{
		Name: s.cookieName(), Value: s.secret.pass(time.Now()), Path: "/", HttpOnly: true,
		SameSite: http.SameSiteStrictMode,
		Secure:   r.TLS != nil || r.Header.Get("X-Forwarded-Proto") == "https",
	})
	// The address is relative: a proxy may serve this server below a path.
	page := "." + r.URL.Path
	if r.URL.RawQuery != "" {
		page += "?" + r.URL.RawQuery
	}
	w.Header().Set("Location", page)
	w.WriteHeader(http.StatusSeeOther)
}
