package local

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"time"
)

var (
	// ErrRuns reports a folder whose cluster runs already.
	ErrRuns = errors.New("a cluster runs already")
	// ErrNone reports a folder without a cluster.
	ErrNone = errors.New("no cluster")
)

// Options says what a cluster is. The zero value is one TaskManager of two slots.
type Options struct {
	// Dir is the cluster's folder, which is made. Default: [DefaultDir].
	Dir string `json:"-"`
	// TaskManagers is how many there are. Default: 1.
	TaskManagers int
	// Slots is how many subtasks a TaskManager runs side by side. Default: 2.
	Slots int
	// Heap is what a TaskManager gives its tasks, state included, in bytes. A TaskManager takes about
	// 1 GiB more, the rest of the cluster 2 GiB. Default: 1 GiB.
	Heap int64
	// HighAvailability lets jobs outlive their JobManager: a ZooKeeper names them, and a folder keeps
	// them.
	HighAvailability bool
	// WorkerPool starts a pool of workers for the environment EXTERNAL at [PoolAddress].
	WorkerPool bool
	// JobServerJar is a released job server for Flink 1.19. Default: one that is assembled.
	JobServerJar string
	// Settings are more of Flink's, by name; they win over the cluster's own.
	Settings map[string]string
	// Tied ends the cluster with the process that starts it.
	Tied bool
	// Progress hears what goes on. Default: nobody does.
	Progress func(string) `json:"-"`
}

// DefaultDir is the folder of the user's one cluster: millrace/flink in the user's cache.
func DefaultDir() (string, error) {
	dir, err := os.UserCacheDir()
	return filepath.Join(dir, "millrace", "flink"), err
}

// PoolAddress is where a pool of workers listens; boot knows no other.
const PoolAddress = "localhost:50000"

// Cluster is a running cluster. It is not for concurrent use.
type Cluster struct {
	dir   string
	state state
}

// state is the file state.json, by which other processes find the cluster.
type state struct {
	Version int
	Options Options
	Ports   map[string]int
	Servers map[string]server // those that were started, by name
	Java    string
	Lib     string // Flink's folder
	Jar     string // the job server
	Boot    string
}

type server struct {
	PID   int
	Start int // how often it was started
}

const version = 1

const (
	readyIn = 2 * time.Minute
	stopIn  = 5 * time.Second
	goneIn  = 20 * time.Second
)

// Up starts a cluster, and returns when it takes jobs. One that doesn't start leaves nothing behind.
func Up(ctx context.Context, o Options) (*Cluster, error) {
	c, err := prepare(ctx, &o)
	if err != nil {
		return nil, err
	}
	o.Progress("starting the cluster")
	if err := c.startAll(ctx); err != nil {
		return nil, errors.Join(err, c.Down(context.WithoutCancel(ctx)))
	}
	return c, nil
}

// prepare installs what is missing and makes the cluster's folder.
func prepare(ctx context.Context, o *Options) (*Cluster, error) {
	if !supported {
		return nil, fmt.Errorf("starting a Flink cluster: on Linux only: %w", errors.ErrUnsupported)
	}
	if o.Dir == "" {
		dir, err := DefaultDir()
		if err != nil {
			return nil, err
		}
		o.Dir = dir
	}
	if o.Progress == nil {
		o.Progress = func(string) {}
	}
	o.TaskManagers = cmp.Or(o.TaskManagers, 1)
	o.Slots = cmp.Or(o.Slots, 2)
	o.Heap = cmp.Or(o.Heap, 1<<30)
	c := &Cluster{state: state{Version: version, Options: *o, Ports: map[string]int{}, Servers: map[string]server{}}}
	if err := c.install(ctx, o); err != nil {
		return nil, err
	}
	if err := os.MkdirAll(o.Dir, 0o700); err != nil {
		return nil, err
	}
	dir, err := filepath.Abs(o.Dir)
	if err == nil {
		c.dir, err = filepath.EvalSymlinks(dir)
	}
	if err != nil {
		return nil, err
	}
	if pids, err := processes(c.mark()); err != nil || len(pids) > 0 {
		return nil, errors.Join(err, fmt.Errorf("%w in %s: end it first (millrace flink down)", ErrRuns, c.dir))
	}
	return c, c.configure()
}

func (c *Cluster) install(ctx context.Context, o *Options) error {
	s := &c.state
	var err error
	if s.Java, err = java(ctx); err != nil {
		return err
	}
	if s.Lib, err = flinkPart.get(ctx, o.Progress); err != nil {
		return err
	}
	if s.Jar = o.JobServerJar; s.Jar == "" {
		dir, err := jobServerPart.get(ctx, o.Progress)
		if err != nil {
			return err
		}
		s.Jar = filepath.Join(dir, "jobserver.jar")
	}
	dir, err := bootPart.get(ctx, o.Progress)
	s.Boot = filepath.Join(dir, "boot")
	return err
}

// Open finds the cluster of a folder, "" for [DefaultDir].
func Open(dir string) (*Cluster, error) {
	if dir == "" {
		d, err := DefaultDir()
		if err != nil {
			return nil, err
		}
		dir = d
	}
	dir, err := filepath.Abs(dir)
	if err != nil {
		return nil, err
	}
	if real, err := filepath.EvalSymlinks(dir); err == nil {
		dir = real
	}
	c := &Cluster{dir: dir}
	text, err := os.ReadFile(c.path("state.json"))
	if errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("%w in %s: start one (millrace flink up)", ErrNone, dir)
	}
	if err == nil {
		err = json.Unmarshal(text, &c.state)
	}
	if err != nil {
		return nil, fmt.Errorf("reading the cluster's state: %w", err)
	}
	if c.state.Version != version {
		return nil, fmt.Errorf("the cluster in %s was started by another version of millrace (its state has version %d, not %d): use that one", dir, c.state.Version, version)
	}
	return c, nil
}

// save replaces the state file at once: another process may be reading it.
func (c *Cluster) save() error {
	text, err := json.MarshalIndent(c.state, "", "  ")
	if err != nil {
		return err
	}
	if err := os.WriteFile(c.path("state.json.part"), text, 0o600); err != nil {
		return err
	}
	return os.Rename(c.path("state.json.part"), c.path("state.json"))
}

func (c *Cluster) path(elem ...string) string {
	return filepath.Join(append([]string{c.dir}, elem...)...)
}

// Dir is the cluster's folder; Down leaves its checkpoints and savepoints.
func (c *Cluster) Dir() string { return c.dir }

// REST is the address of Flink's REST and dashboard, "127.0.0.1:PORT".
func (c *Cluster) REST() string { return c.address("rest") }

// JobServer is the address of Beam's job server, "127.0.0.1:PORT".
func (c *Cluster) JobServer() string { return c.address("job") }

// Metrics are the addresses where the running JobManager and TaskManagers show their metrics to
// Prometheus, by the server's name.
func (c *Cluster) Metrics() map[string]string {
	all := map[string]string{}
	for _, name := range c.running() {
		if _, ok := c.state.Ports["metrics "+name]; ok {
			all[name] = c.address("metrics " + name)
		}
	}
	return all
}

// Environment is the type and configuration of the environment in which jobs run their workers.
func (c *Cluster) Environment() (kind, config string) {
	text, err := json.Marshal(map[string]string{"command": c.path("boot")})
	if err != nil {
		panic(err) // of a string
	}
	return "PROCESS", string(text)
}

// PIDs are the processes of the servers that run, by name: jobmanager, taskmanager-0, jobserver,
// zookeeper, pool.
func (c *Cluster) PIDs() map[string]int {
	pids := map[string]int{}
	for _, name := range c.running() {
		pids[name] = c.state.Servers[name].PID
	}
	return pids
}

// running are the names of the servers that run, in order.
func (c *Cluster) running() []string {
	var names []string
	for _, name := range slices.Sorted(maps.Keys(c.state.Servers)) {
		if marked(c.state.Servers[name].PID, c.mark()) {
			names = append(names, name)
		}
	}
	return names
}

// Log is the path of a server's log.
func (c *Cluster) Log(name string) string { return c.path("log", name+".log") }

// Down ends all that belongs to the cluster, boot and workers included, and removes what it wrote, except
// checkpoints and savepoints. Jobs are not asked: what they have not checkpointed is lost.
func (c *Cluster) Down(ctx context.Context) error {
	for _, name := range c.running() {
		terminate(c.state.Servers[name].PID)
	}
	ctx, cancel := context.WithTimeout(ctx, goneIn)
	defer cancel()
	for patience := stopIn / pause; ; patience-- { // some start while others end
		pids, err := processes(c.mark())
		if err != nil {
			return err
		}
		if len(pids) == 0 {
			break
		}
		for _, pid := range pids {
			if patience <= 0 {
				kill(pid)
			}
		}
		if err := sleep(ctx); err != nil {
			return fmt.Errorf("ending processes %v: %w", pids, err)
		}
	}
	c.sweep()
	var errs []error
	for _, name := range []string{"conf", "log", "tmp", "ha", "zookeeper", "artifacts", "boot", "state.json.part", "state.json"} {
		errs = append(errs, os.RemoveAll(c.path(name)))
	}
	for _, name := range []string{"checkpoints", "savepoints", "."} {
		_ = os.Remove(c.path(name)) // if it is empty
	}
	return errors.Join(errs...)
}

const pause = 50 * time.Millisecond

func sleep(ctx context.Context) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(pause):
		return nil
	}
}

func (c *Cluster) address(port string) string {
	return "127.0.0.1:" + strconv.Itoa(c.state.Ports[port])
}

// claim finds free ports. They lie below those that the kernel gives to outgoing connections: a client
// that tries to reach a killed server would sooner or later get the server's port as its own.
func (c *Cluster) claim(names ...string) error {
	for _, name := range names {
		for try := 0; c.state.Ports[name] == 0; try++ {
			port := 10000 + rand.IntN(22000)
			l, err := net.Listen("tcp", "127.0.0.1:"+strconv.Itoa(port))
			if err != nil {
				if try == 1000 {
					return fmt.Errorf("finding a free port: %w", err)
				}
				continue
			}
			defer l.Close() // held until all are found, so that none comes twice
			c.state.Ports[name] = port
		}
	}
	return nil
}
