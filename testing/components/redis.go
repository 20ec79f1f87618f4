package components

import (
	"bufio"
	"context"
	"fmt"
	"net"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

// Redis starts a Redis that appends each write to a file, so that what it acknowledged outlives a kill.
func Redis(t testing.TB) *Server {
	t.Helper()
	s := spec{name: "redis-7", ports: 1, command: redisCommand, ready: redisReady}
	return start(t, s, program(t, s.name, func(dir string) error {
		// The server's packages, of which no other is on every machine.
		return debian(dir, "redis-server", "redis-tools", "libjemalloc2", "liblzf1", "liblua5.1-0", "lua-bitop", "lua-cjson")
	}))
}

func redisCommand(program, data string, ports []int) (*exec.Cmd, error) {
	libs, err := filepath.Glob(filepath.Join(program, "usr", "lib", "*-linux-*"))
	if err != nil {
		return nil, err
	}
	cmd := exec.Command(filepath.Join(program, "usr", "bin", "redis-server"),
		"--bind", "127.0.0.1", "--port", strconv.Itoa(ports[0]), "--dir", data, "--save", "", "--appendonly", "yes", "--appendfsync", "always")
	cmd.Env = append(cmd.Environ(), "LD_LIBRARY_PATH="+strings.Join(libs, ":"))
	return cmd, nil
}

func redisReady(ctx context.Context, addr string) error {
	c, err := (&net.Dialer{}).DialContext(ctx, "tcp", addr)
	if err != nil {
		return err
	}
	defer c.Close()
	if _, err := c.Write([]byte("PING\r\n")); err != nil {
		return err
	}
	answer, err := bufio.NewReader(c).ReadString('\n')
	if err == nil && answer != "+PONG\r\n" { // -LOADING until it has read its file
		err = fmt.Errorf("it answers %q", answer)
	}
	return err
}
