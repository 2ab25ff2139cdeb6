package connect

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/warlock-go/warlock/internal/redistest"
)

// who opens a client and returns the user that Redis takes it for.
func who(t *testing.T, s Source, env environment) (string, error) {
	t.Helper()
	s.Getenv = env.get
	client, err := s.Open()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = client.Close() })
	ctx, cancel := context.WithTimeout(t.Context(), redistest.Patience)
	defer cancel()
	return client.Do(ctx, "ACL", "WHOAMI").Text()
}

// mustBe fails the test unless Redis takes the client for user.
func mustBe(t *testing.T, user string, s Source, env environment) {
	t.Helper()
	if got, err := who(t, s, env); got != user || err != nil {
		t.Errorf("%+v, %v: Redis sees %q, %v; want %q", s, env, got, err, user)
	}
}

func TestPasswordsOnAServer(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t, "--requirepass", hard,
		"--user", "jane", "on", ">"+hard+secretWord, "~*", "&*", "+@all")
	url := "redis://" + server.Addr
	file := write(t, hard+"\n")
	mustBe(t, "default", Source{URL: "redis://:" + hardURL + "@" + server.Addr}, nil)
	mustBe(t, "default", Source{URL: url, PasswordFile: file}, nil)
	mustBe(t, "default", Source{URL: url}, environment{"WARLOCK_PASSWORD": hard})
	mustBe(t, "default", Source{URL: url}, environment{"WARLOCK_PASSWORD_FILE": file})
	mustBe(t, "jane", Source{URL: "redis://jane:" + hardURL + secretWord + "@" + server.Addr}, nil)
	mustBe(t, "jane", Source{URL: url, User: "jane", PasswordFile: write(t, hard+secretWord)}, nil)
	mustBe(t, "jane", Source{URL: url},
		environment{"WARLOCK_USER": "jane", "WARLOCK_PASSWORD": hard + secretWord})

	_, err := who(t, Source{URL: "redis://jane:no" + secretWord + "@" + server.Addr}, nil)
	text := fmt.Sprint(err)
	if !strings.Contains(text, "WRONGPASS") || strings.Contains(text, secretWord) {
		t.Errorf("with a wrong password: %v", err)
	}
	_, err = who(t, Source{URL: url}, nil)
	if !strings.Contains(fmt.Sprint(err), "NOAUTH") {
		t.Errorf("without a password: %v", err)
	}
}

func TestUnixSocket(t *testing.T) {
	t.Parallel()
	dir, err := os.MkdirTemp("", "warlock") // short enough for the path of a socket
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	socket := filepath.Join(dir, "a b.sock")
	redistest.Start(t, "--requirepass", hard, "--unixsocket", socket)
	path := strings.ReplaceAll(socket, " ", "%20")
	mustBe(t, "default", Source{URL: "unix://:" + hardURL + "@" + path}, nil)
	mustBe(t, "default", Source{URL: "unix://" + path}, environment{"WARLOCK_PASSWORD": hard})
}

func TestCluster(t *testing.T) {
	t.Parallel()
	a, b := redistest.StartNode(t), redistest.StartNode(t)
	redistest.Cluster(t, a, b)
	for _, s := range []*redistest.Server{a, b} {
		s.Do("ACL", "SETUSER", "jane", "on", ">"+hard, "~*", "&*", "+@all")
	}
	for _, url := range []string{
		"redis://" + a.Addr + "," + b.Addr,
		"redis://" + b.Addr + "?cluster=true",
		"redis://127.0.0.1:1," + b.Addr, // where the first host is away
	} {
		s := Source{URL: url, User: "jane", PasswordFile: write(t, hard), Getenv: environment{}.get}
		client, err := s.Open()
		if err != nil {
			t.Fatal(err)
		}
		defer client.Close()
		for _, key := range []string{"a", "b", "c", "d"} { // on both nodes
			if err := client.Set(t.Context(), key, url, 0).Err(); err != nil {
				t.Errorf("%s: %v", url, err)
			}
		}
	}
}

func TestSentinel(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	sentinel := server.StartSentinel("invoices")
	server.Do("ACL", "SETUSER", "jane", "on", ">"+hard, "~*", "&*", "+@all")
	sentinel.Admin = sentinel.Client()
	sentinel.Do("ACL", "SETUSER", "guard", "on", ">"+hard+"2", "~*", "&*", "+@all")
	sentinel.Do("ACL", "SETUSER", "default", "resetpass") // others must log in
	env := environment{
		"WARLOCK_SENTINEL_USER": "guard", "WARLOCK_SENTINEL_PASSWORD_FILE": write(t, hard+"2\n"),
	}
	addr := sentinel.Addr + "?master=invoices"
	mustBe(t, "jane", Source{URL: "redis://jane:" + hardURL + "@" + addr}, env)
	mustBe(t, "jane", Source{URL: "redis://127.0.0.1:1," + addr, User: "jane"},
		environment{"WARLOCK_PASSWORD": hard, "WARLOCK_SENTINEL_USER": "guard",
			"WARLOCK_SENTINEL_PASSWORD": hard + "2"})
}

// certificate writes a certificate for 127.0.0.1 that signs itself, and its key.
func certificate(t *testing.T) (cert, key string) {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "warlock"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true,
		KeyUsage:    x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &private.PublicKey, private)
	if err != nil {
		t.Fatal(err)
	}
	privateDER, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	return write(t, string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))),
		write(t, string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: privateDER})))
}

// startTLS starts a server that speaks TLS at an address too, or skips the test.
func startTLS(t *testing.T, cert, key string) (addr string) {
	t.Helper()
	redistest.Require(t, "redis-server")
	port := strconv.Itoa(redistest.FreePort(t))
	args := []string{"--tls-port", port, "--tls-cert-file", cert, "--tls-key-file", key,
		"--tls-ca-cert-file", cert, "--tls-auth-clients", "no"}
	// A server that knows these arguments ends as well: it cannot bind this name.
	check := exec.Command("redis-server", append([]string{"--bind", "none.invalid"}, args...)...)
	if out, _ := check.CombinedOutput(); strings.Contains(string(out), "'tls-port") {
		t.Skip("this redis-server is built without TLS")
	}
	redistest.Start(t, append(args, "--requirepass", hard)...)
	return "127.0.0.1:" + port
}

// trusted is set in the process that TestTLS starts: the roots that a process trusts
// are read once.
const trusted = "WARLOCK_TEST_TLS_ADDR"

func TestTLS(t *testing.T) {
	if addr := os.Getenv(trusted); addr != "" {
		mustBe(t, "default", Source{URL: "rediss://:" + hardURL + "@" + addr}, nil)
		return
	}
	t.Parallel()
	cert, key := certificate(t)
	addr := startTLS(t, cert, key)
	mustBe(t, "default", Source{URL: "rediss://:" + hardURL + "@" + addr + "?skip_verify=true"}, nil)
	if _, err := who(t, Source{URL: "rediss://:" + hardURL + "@" + addr}, nil); err == nil {
		t.Error("a certificate that nobody signed is trusted")
	}
	again := exec.Command(os.Args[0], "-test.run=^TestTLS$", "-test.v")
	again.Env = append(os.Environ(),
		trusted+"="+addr, "SSL_CERT_FILE="+cert, "SSL_CERT_DIR=/nonexistent")
	out, err := again.CombinedOutput()
	if err != nil || !strings.Contains(string(out), "PASS: TestTLS") {
		t.Errorf("with the certificate in SSL_CERT_FILE: %v\n%s", err, out)
	}
}

// No string of a client, of which logs may have one, has the password in it.
func TestClientsDoNotSayTheirPassword(t *testing.T) {
	url := "redis://jane:" + secretWord + "@127.0.0.1:1"
	client, err := Source{URL: url, Getenv: environment{}.get}.Open()
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	if text := client.(*redis.Client).String(); strings.Contains(text, secretWord) {
		t.Errorf("String: %s", text)
	}
	err = client.Ping(t.Context()).Err()
	if err == nil || strings.Contains(err.Error(), secretWord) {
		t.Errorf("Ping: %v", err)
	}
}
