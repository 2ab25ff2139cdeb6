package redistest

import (
	_ "embed"
	"encoding/binary"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"
)

//go:embed testdata/clock.c
var clockSource []byte

// StartWithClock starts a real server whose wall clock SetClock and StopClock
// set. It needs Linux and a C compiler, since the clock is put before the
// system's by the dynamic linker.
func StartWithClock(tb TB, args ...string) *Server {
	tb.Helper()
	Require(tb, "gcc")
	dir := tb.TempDir()
	source, library, memory := filepath.Join(dir, "clock.c"), filepath.Join(dir, "clock.so"), filepath.Join(dir, "clock")
	if err := os.WriteFile(source, clockSource, 0o600); err != nil {
		tb.Fatal(err)
	}
	if out, err := exec.Command("gcc", "-shared", "-fPIC", "-O1", "-o", library, source).CombinedOutput(); err != nil {
		tb.Fatalf("gcc: %v\n%s", err, out)
	}
	s := &Server{tb: tb, args: args, clock: share(tb, memory)}
	s.env = []string{"LD_PRELOAD=" + library, "REDISTEST_CLOCK=" + memory}
	s.start()
	return s
}

// SetClock sets the server's clock off from the machine's by so many whole
// seconds. The clock goes on from there.
func (s *Server) SetClock(offset time.Duration) {
	binary.NativeEndian.PutUint64(s.clock, uint64(offset/time.Second))
	binary.NativeEndian.PutUint64(s.clock[8:], 0)
}

// StopClock lets the server's clock stand still at a time, which counts in whole
// microseconds.
func (s *Server) StopClock(at time.Time) {
	binary.NativeEndian.PutUint64(s.clock[8:], uint64(at.UnixMicro()))
}

// settings is the size of what clock.c maps.
const settings = 16

// share makes a file of settings and maps it.
func share(tb TB, name string) []byte {
	tb.Helper()
	if err := os.WriteFile(name, make([]byte, settings), 0o600); err != nil {
		tb.Fatal(err)
	}
	f, err := os.OpenFile(name, os.O_RDWR, 0)
	if err != nil {
		tb.Fatal(err)
	}
	defer f.Close()
	const readWrite = syscall.PROT_READ | syscall.PROT_WRITE
	memory, err := syscall.Mmap(int(f.Fd()), 0, settings, readWrite, syscall.MAP_SHARED)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { _ = syscall.Munmap(memory) })
	return memory
}
