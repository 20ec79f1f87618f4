package components

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"testing"
	"time"
)

// Server is a running server. It belongs to the test that started it.
type Server struct {
	// Addr is where clients connect to, "127.0.0.1:PORT".
	Addr string

	t       testing.TB
	spec    spec
	program string // its folder
	data    string // folder of the server's data and log
	ports   []int
	child   *child // nil while it doesn't run
}

// spec says what a server is.
type spec struct {
	name  string
	ports int
	// command makes the command that runs in the foreground, with the program's folder, a folder for
	// data, and the ports.
	command func(program, data string, ports []int) (*exec.Cmd, error)
	// ready asks the server; it is called until it returns nil.
	ready func(ctx context.Context, addr string) error
}

var errEnded = errors.New("exit status 0")

const (
	readyIn = 90 * time.Second
	stopIn  = 10 * time.Second
)

// start starts a server whose program lies in a folder.
func start(t testing.TB, s spec, program string) *Server {
	t.Helper()
	server := &Server{t: t, spec: s, program: program}
	folder := t.TempDir() // before Cleanup, so that the server has ended when the folder is removed
	t.Cleanup(func() { server.stop() })
	var err error
	for _, try := range []string{"1", "2"} { // a port may be taken between looking and listening
		server.data = filepath.Join(folder, try)
		err = os.Mkdir(server.data, 0o777)
		if err == nil {
			server.ports, err = freePorts(s.ports)
		}
		if err == nil {
			server.Addr = "127.0.0.1:" + strconv.Itoa(server.ports[0])
			err = server.run()
		}
		if err == nil {
			return server
		}
		server.stop()
	}
	t.Fatalf("starting %s: %v", s.name, err)
	return nil
}

func (s *Server) run() error {
	cmd, err := s.spec.command(s.program, s.data, s.ports)
	if err != nil {
		return err
	}
	log, err := os.OpenFile(filepath.Join(s.data, "log.txt"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o666)
	if err != nil {
		return err
	}
	defer log.Close()
	cmd.Dir, cmd.Stdout, cmd.Stderr = s.data, log, log
	cmd.Env = append(cmd.Environ(), "TMPDIR="+s.data)
	if s.child, err = startChild(cmd); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), readyIn)
	defer cancel()
	for {
		err := s.spec.ready(ctx, s.Addr)
		if err == nil {
			return nil
		}
		select {
		case <-s.child.ended:
			return fmt.Errorf("it ended: %w\n%s", s.child.err, s.logEnd())
		case <-ctx.Done():
			return fmt.Errorf("not ready in %v: %w\n%s", readyIn, err, s.logEnd())
		case <-time.After(50 * time.Millisecond):
		}
	}
}

func (s *Server) logEnd() []byte {
	text, err := os.ReadFile(filepath.Join(s.data, "log.txt"))
	if err != nil {
		return []byte(err.Error())
	}
	return text[max(0, len(text)-2000):]
}

// Kill ends the server at once, without a chance to write anything, and returns when it is gone.
func (s *Server) Kill() {
	s.t.Helper()
	if s.child == nil {
		s.t.Fatalf("killing %s: it doesn't run", s.spec.name)
	}
	s.child.signal(killSignal)
	<-s.child.ended
	s.child = nil
}

// Restart starts the server again, on the same ports and data, and returns when it is ready. One that
// runs is asked to end first.
func (s *Server) Restart() {
	s.t.Helper()
	s.stop()
	if err := s.run(); err != nil {
		s.t.Fatalf("restarting %s: %v", s.spec.name, err)
	}
}

// stop asks the server to end, kills what is left of its group, and waits.
func (s *Server) stop() {
	if s.child == nil {
		return
	}
	s.child.signal(stopSignal)
	select {
	case <-s.child.ended:
	case <-time.After(stopIn):
	}
	s.child.signal(killSignal)
	<-s.child.ended
	s.child = nil
}

// freePorts finds ports that nobody listens on.
func freePorts(n int) ([]int, error) {
	var ports []int
	for range 1000 {
		if len(ports) == n {
			return ports, nil
		}
		port := 10000 + rand.IntN(22000)
		l, err := net.Listen("tcp", "127.0.0.1:"+strconv.Itoa(port))
		if err != nil {
			continue
		}
		defer l.Close() // held until all are found, so that none comes twice
		ports = append(ports, port)
	}
	return nil, errors.New("no free port between 10000 and 32000 on 127.0.0.1")
}

// PID is the server's process, 0 while it doesn't run.
func (s *Server) PID() int {
	if s.child == nil {
		return 0
	}
	return s.child.pid
}
