package serve

import (
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strings"
)

// policy is the content security policy of every answer. A page runs the scripts
// and styles of this server alone, and scripts cannot turn text into markup.
const policy = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; " +
	"img-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'; " +
	"require-trusted-types-for 'script'; trusted-types 'none'"

// protect sets the headers that every answer has.
func protect(h http.Header) {
	h.Set("Content-Security-Policy", policy)
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Referrer-Policy", "no-referrer")
	h.Set("Cross-Origin-Opener-Policy", "same-origin")
	h.Set("Cross-Origin-Resource-Policy", "same-origin")
	h.Set("Cache-Control", "no-store")
}

// Loopback reports whether only this machine can reach a server that listens on the
// address listen.
func Loopback(listen string) bool {
	host, _ := splitHost(listen)
	if host == "localhost" {
		return true
	}
	ip, err := netip.ParseAddr(host)
	return err == nil && ip.Unmap().IsLoopback()
}

// served reports whether a server that listens on listen serves the Host header
// host. Without this check, a stranger's page could name this server by a domain of
// the stranger, and read what it serves.
//
// The server serves loopback and the host that it listens on, with its port. It also
// serves names. A name without a port is served with any port, or none.
func served(host, listen string, names []string) bool {
	name, port := splitHost(host)
	if name == "" {
		return false
	}
	own, ownPort := splitHost(listen)
	if port == ownPort || port == "" && ownPort == "80" {
		if slices.Contains([]string{"localhost", "127.0.0.1", "::1", own}, name) {
			return true
		}
	}
	return slices.ContainsFunc(names, func(allowed string) bool {
		other, otherPort := splitHost(allowed)
		return name == other && (otherPort == "" || otherPort == port)
	})
}

// splitHost returns the name and the port of a host, in the form in which hosts are
// compared. The port is empty if the host has none.
func splitHost(host string) (name, port string) {
	name, port, err := net.SplitHostPort(host)
	if err != nil {
		name, port = host, ""
		if strings.HasPrefix(host, "[") {
			name = strings.Trim(host, "[]")
		}
	}
	return strings.TrimSuffix(strings.ToLower(name), "."), port
}

// ownPage reports whether a request comes from a page of a host that is served, or
// from a program that is no browser. A browser sends at least one of the two headers
// with each POST.
func ownPage(h http.Header, served func(host string) bool) bool {
	if site := h.Get("Sec-Fetch-Site"); site != "" && site != "same-origin" {
		return false
	}
	origin := h.Get("Origin")
	if origin == "" {
		return true
	}
	u, err := url.Parse(origin)
	return err == nil && served(u.Host)
}
