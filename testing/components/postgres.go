package components

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
)

// Database is a PostgreSQL whose log holds what change capture needs.
type Database struct {
	*Server
	bin string
}

// Postgres starts a PostgreSQL, that of the machine if it has one; it takes some seconds.
func Postgres(t testing.TB) *Database {
	t.Helper()
	bin := postgresOfMachine()
	if bin == "" || !supported {
		program := program(t, "postgresql-15", func(dir string) error {
			// The server's packages, of which no other is on every machine.
			return debian(dir, "postgresql-15", "postgresql-client-15", "libpq5", "libicu72", "libxml2", "libldap-2.5-0", "libsasl2-2")
		})
		if os.Geteuid() == 0 { // it runs as another user, who may not look into root's cache
			near := filepath.Join(t.TempDir(), "program")
			if err := errors.Join(os.CopyFS(near, os.DirFS(program)), give(near)); err != nil {
				t.Fatal(err)
			}
			program = near
		}
		bin = filepath.Join(program, "usr", "lib", "postgresql", "15", "bin")
	}
	s := spec{name: "PostgreSQL", ports: 1, command: postgresCommand, ready: func(ctx context.Context, addr string) error {
		_, err := psql(ctx, bin, addr, "SELECT 1")
		return err
	}}
	return &Database{start(t, s, bin), bin}
}

// postgresOfMachine is the folder of the newest server's programs; they are in nobody's PATH.
func postgresOfMachine() string {
	found, err := filepath.Glob("/usr/lib/postgresql/*/bin/initdb")
	if err != nil || len(found) == 0 {
		path, err := exec.LookPath("initdb")
		if err != nil {
			return ""
		}
		return filepath.Dir(path)
	}
	version := func(path string) float64 {
		v, _ := strconv.ParseFloat(filepath.Base(filepath.Dir(filepath.Dir(path))), 64) // 0 for none
		return v
	}
	return filepath.Dir(slices.MaxFunc(found, func(a, b string) int { return cmp.Compare(version(a), version(b)) }))
}

func postgresCommand(bin, data string, ports []int) (*exec.Cmd, error) {
	db := filepath.Join(data, "db")
	if _, err := os.Stat(filepath.Join(db, "PG_VERSION")); err != nil {
		err := os.MkdirAll(db, 0o700)
		if err == nil {
			err = give(db)
		}
		if err != nil {
			return nil, err
		}
		init := postgresTool(bin, "initdb", "-D", db, "-U", "postgres", "-A", "trust", "-E", "UTF8", "--locale=C", "--no-sync")
		if err := unprivileged(init); err != nil {
			return nil, err
		}
		if out, err := init.CombinedOutput(); err != nil {
			return nil, fmt.Errorf("running initdb: %w\n%s", err, out[max(0, len(out)-2000):])
		}
	}
	for end := time.Now().Add(stopIn); inhabited(db) && time.Now().Before(end); { // it won't start beside what a killed one has left
		time.Sleep(10 * time.Millisecond)
	}
	cmd := postgresTool(bin, "postgres", "-D", db, "-p", strconv.Itoa(ports[0]),
		"-c", "listen_addresses=127.0.0.1", "-c", "unix_socket_directories=", "-c", "fsync=off",
		"-c", "wal_level=logical", "-c", "max_wal_senders=8", "-c", "max_replication_slots=8")
	return cmd, unprivileged(cmd)
}

// postgresTool is a program with the libraries that lie beside it, if it was unpacked and not installed.
func postgresTool(bin, name string, args ...string) *exec.Cmd {
	cmd := exec.Command(filepath.Join(bin, name), args...)
	root := filepath.Join(bin, "..", "..", "..", "..")
	if libs, err := filepath.Glob(filepath.Join(root, "lib", "*-linux-*")); err == nil && len(libs) > 0 && filepath.Clean(root) != "/usr" {
		cmd.Env = append(cmd.Environ(), "LD_LIBRARY_PATH="+strings.Join(libs, ":"))
	}
	return cmd
}

// psql runs statements, and gives what they answer as lines.
func psql(ctx context.Context, bin, addr, statements string) (string, error) {
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		return "", err
	}
	cmd := postgresTool(bin, "psql", "-h", host, "-p", port, "-U", "postgres", "-d", "postgres", "-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-f", "-")
	cmd.Stdin = strings.NewReader(statements)
	var out strings.Builder
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Start(); err != nil {
		return "", err
	}
	stop := context.AfterFunc(ctx, func() { _ = cmd.Process.Kill() })
	defer stop()
	if err := cmd.Wait(); err != nil {
		return "", fmt.Errorf("running psql: %w\n%s", errors.Join(err, ctx.Err()), out.String())
	}
	return strings.TrimSpace(out.String()), nil
}

// Exec runs statements of SQL, each in a transaction of its own unless they say BEGIN, and returns what
// they answer: a line a row, columns with | between them.
func (d *Database) Exec(statements string) string {
	d.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	out, err := psql(ctx, d.bin, d.Addr, statements)
	if err != nil {
		d.t.Fatal(err)
	}
	return out
}
