package local

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
)

const (
	jobManager = "jobmanager"
	zooKeeper  = "zookeeper"
	jobService = "jobserver"
	pool       = "pool"
)

func taskManager(i int) string { return "taskmanager-" + strconv.Itoa(i) }

func (c *Cluster) startAll(ctx context.Context) error {
	if c.state.Options.HighAvailability {
		if err := c.start(ctx, zooKeeper); err != nil {
			return err
		}
	}
	names := []string{jobManager}
	for i := range c.state.Options.TaskManagers {
		names = append(names, taskManager(i))
	}
	names = append(names, jobService)
	if c.state.Options.WorkerPool {
		names = append(names, pool)
	}
	return c.start(ctx, names...)
}

// KillTaskManager ends a TaskManager at once (kill -9), and returns when it is gone. The first is 0.
func (c *Cluster) KillTaskManager(i int) error { return c.kill(taskManager(i)) }

// StartTaskManager starts a TaskManager that doesn't run, or one more than there were, and returns when
// the JobManager knows it.
func (c *Cluster) StartTaskManager(ctx context.Context, i int) error {
	if slices.Contains(c.running(), taskManager(i)) {
		return fmt.Errorf("starting %s: it runs", taskManager(i))
	}
	return c.start(ctx, taskManager(i))
}

// KillJobManager ends the JobManager at once. Its jobs are lost, unless the cluster is highly available.
func (c *Cluster) KillJobManager() error { return c.kill(jobManager) }

// RestartJobManager starts the JobManager again, and returns when the running TaskManagers have come back
// to it.
func (c *Cluster) RestartJobManager(ctx context.Context) error {
	if err := c.stop(ctx, jobManager); err != nil {
		return err
	}
	if err := c.start(ctx, jobManager); err != nil {
		return err
	}
	return c.ready(ctx, c.running()...)
}

// KillJobServer ends Beam's job server at once; the jobs run on.
func (c *Cluster) KillJobServer() error { return c.kill(jobService) }

// RestartJobServer starts Beam's job server again. It knows none of the jobs it had.
func (c *Cluster) RestartJobServer(ctx context.Context) error {
	if err := c.stop(ctx, jobService); err != nil {
		return err
	}
	return c.start(ctx, jobService)
}

// Workers are the worker processes of a TaskManager.
func (c *Cluster) Workers(i int) ([]int, error) {
	pids, err := c.Children(i)
	return slices.DeleteFunc(pids, func(pid int) bool { return !bytes.Contains(arguments(pid), []byte("\x00--worker=true\x00")) }), err
}

// Children are all processes that a TaskManager has started, boot and workers, even if it is gone itself.
func (c *Cluster) Children(i int) ([]int, error) {
	pids, err := processes(c.mark())
	return slices.DeleteFunc(pids, func(pid int) bool {
		return pid == c.state.Servers[taskManager(i)].PID || !marked(pid, serverMark(taskManager(i)))
	}), err
}

// mark is the line of the environment that the cluster's processes have in common.
func (c *Cluster) mark() string { return "MILLRACE_FLINK=" + c.dir }

func serverMark(name string) string { return "MILLRACE_FLINK_SERVER=" + name }

// start starts servers and waits until they are ready.
func (c *Cluster) start(ctx context.Context, names ...string) error {
	for _, name := range names {
		if err := c.claim(ports(name)...); err != nil {
			return err
		}
		s := c.state.Servers[name]
		s.Start++
		c.state.Servers[name] = s // its command tells the start
		cmd := c.command(name)
		log, err := os.OpenFile(c.Log(name), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o666)
		if err != nil {
			return err
		}
		cmd.Dir, cmd.Stdout, cmd.Stderr = c.path("tmp"), log, log
		cmd.Env = append(os.Environ(), "TMPDIR="+c.path("tmp"), "FLINK_PLUGINS_DIR="+filepath.Join(c.state.Lib, "plugins"), c.mark(), serverMark(name))
		s.PID, err = start(cmd, c.state.Options.Tied)
		if err := errors.Join(err, log.Close()); err != nil {
			return fmt.Errorf("starting %s: %w", name, err)
		}
		c.state.Servers[name] = s
		if err := c.save(); err != nil {
			return err
		}
	}
	return c.ready(ctx, names...)
}

// kill ends a server and waits for it.
func (c *Cluster) kill(name string) error {
	if !slices.Contains(c.running(), name) {
		return fmt.Errorf("killing %s: it doesn't run", name)
	}
	kill(c.state.Servers[name].PID)
	return c.gone(context.Background(), name)
}

// stop asks a server to end, if it runs.
func (c *Cluster) stop(ctx context.Context, name string) error {
	if !slices.Contains(c.running(), name) {
		return nil
	}
	terminate(c.state.Servers[name].PID)
	return c.gone(ctx, name)
}

func (c *Cluster) gone(ctx context.Context, name string) error {
	ctx, cancel := context.WithTimeout(ctx, goneIn)
	defer cancel()
	for slices.Contains(c.running(), name) {
		if err := sleep(ctx); err != nil {
			return fmt.Errorf("ending %s: %w", name, err)
		}
	}
	return nil
}

// ready returns when servers answer.
func (c *Cluster) ready(ctx context.Context, names ...string) error {
	ctx, cancel := context.WithTimeout(ctx, readyIn)
	defer cancel()
	for _, name := range names {
		for {
			err := c.answers(ctx, name)
			if err == nil {
				break
			}
			if !slices.Contains(c.running(), name) {
				return fmt.Errorf("starting %s: it ended\n%s", name, c.logEnd(name))
			}
			if ctx.Err() != nil || sleep(ctx) != nil {
				return fmt.Errorf("starting %s: %w: %w\n%s", name, ctx.Err(), err, c.logEnd(name))
			}
		}
	}
	return nil
}

func (c *Cluster) logEnd(name string) []byte {
	text, err := os.ReadFile(c.Log(name))
	if err != nil {
		return []byte(err.Error())
	}
	return text[max(0, len(text)-2000):]
}

// answers asks a server whether it is ready.
func (c *Cluster) answers(ctx context.Context, name string) error {
	switch name {
	case zooKeeper:
		return dial(ctx, c.address("zookeeper"))
	case jobService:
		return dial(ctx, c.JobServer())
	case pool:
		return dial(ctx, PoolAddress)
	case jobManager:
		return c.Get(ctx, "/overview", &struct{}{})
	}
	var answer struct {
		TaskManagers []struct {
			ID          string
			SlotsNumber int // 0 until it has said which it has, a little after it is known
		}
	}
	if err := c.Get(ctx, "/taskmanagers", &answer); err != nil {
		return err
	}
	for _, t := range answer.TaskManagers {
		if t.ID == c.resource(name) && t.SlotsNumber > 0 {
			return nil
		}
	}
	return errors.New("the JobManager doesn't know it")
}

// resource names one start of a TaskManager: the JobManager lists a killed one for some time.
func (c *Cluster) resource(name string) string {
	return fmt.Sprintf("%s-%d", name, c.state.Servers[name].Start)
}

// Get asks the cluster by its REST interface, for half a minute at most, and decodes the answer, which is JSON.
func (c *Cluster) Get(ctx context.Context, path string, answer any) error {
	ctx, stop := context.WithTimeout(ctx, 30*time.Second)
	defer stop()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+c.REST()+path, nil)
	if err != nil {
		return err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("%s answers %s", path, resp.Status)
	}
	return json.NewDecoder(resp.Body).Decode(answer)
}

func dial(ctx context.Context, address string) error {
	var d net.Dialer
	conn, err := d.DialContext(ctx, "tcp", address)
	if err == nil {
		err = conn.Close()
	}
	return err
}

// ports are the names of the ports that a server listens on.
func ports(name string) []string {
	switch name {
	case zooKeeper, pool:
		return nil // zookeeper's is in the settings, the pool's is fixed
	case jobService:
		return []string{"job", "artifacts"}
	}
	return []string{"metrics " + name}
}

// command is what runs a server.
func (c *Cluster) command(name string) *exec.Cmd {
	conf, port := c.path("conf"), func(name string) string { return strconv.Itoa(c.state.Ports[name]) }
	metrics := []string{"--configDir", conf, "-D", "metrics.reporter.prom.port=" + port("metrics "+name)}
	switch name {
	case zooKeeper:
		return c.java(128<<20, "org.apache.flink.runtime.zookeeper.FlinkZooKeeperQuorumPeer", "--zkConfigFile", filepath.Join(conf, "zoo.cfg"), "--peerId", "1")
	case jobManager:
		return c.java(512<<20, "org.apache.flink.runtime.entrypoint.StandaloneSessionClusterEntrypoint", metrics...)
	case jobService:
		return c.java(1<<30, "-jar", c.state.Jar, "--flink-master", c.REST(), "--job-port", port("job"), "--artifact-port", port("artifacts"),
			"--expansion-port", "-1", "--artifacts-dir", c.path("artifacts"))
	case pool:
		return exec.Command(c.state.Boot, "--worker_pool")
	}
	return c.java(c.state.Options.Heap+frameworkHeap, "org.apache.flink.runtime.taskexecutor.TaskManagerRunner",
		append(metrics, "-D", "taskmanager.resource-id="+c.resource(name))...)
}

// opened are the packages of the JDK that Flink reaches into by reflection: the list of Flink's own
// config.yaml, env.java.opts.all.
var opened = []string{
	"java.lang", "java.net", "java.io", "java.nio", "sun.nio.ch", "java.lang.reflect", "java.text", "java.time", "java.util",
	"java.util.concurrent", "java.util.concurrent.atomic", "java.util.concurrent.locks",
}

// java is a JVM with a class of Flink, or with -jar.
func (c *Cluster) java(heap int64, class string, args ...string) *exec.Cmd {
	flags := []string{
		"--add-exports=java.base/sun.net.util=ALL-UNNAMED", "--add-exports=java.rmi/sun.rmi.registry=ALL-UNNAMED",
		"--add-exports=jdk.compiler/com.sun.tools.javac.api=ALL-UNNAMED",
	}
	for _, p := range opened {
		flags = append(flags, "--add-opens=java.base/"+p+"=ALL-UNNAMED")
	}
	flags = append(flags, fmt.Sprintf("-Xmx%dm", heap>>20), "-XX:-UsePerfData", "-Djava.io.tmpdir="+c.path("tmp"))
	switch {
	case strings.HasSuffix(class, "TaskManagerRunner"):
		flags = append(flags, fmt.Sprintf("-Xms%dm", heap>>20), fmt.Sprintf("-XX:MaxDirectMemorySize=%dm", directMemory>>20), "-XX:MaxMetaspaceSize=384m")
	default:
		flags = append(flags, "-XX:+UseSerialGC")
	}
	if class != "-jar" {
		flags = append(flags, "-Dlog4j.configurationFile="+c.path("conf", "log4j.properties"), "-cp", filepath.Join(c.state.Lib, "lib", "*"))
	}
	return exec.Command(c.state.Java, append(append(flags, class), args...)...)
}

const (
	frameworkHeap = 128 << 20
	directMemory  = 512 << 20
)

// configure makes the folders and files of the settings.
func (c *Cluster) configure() error {
	if err := c.claim("rest", "rpc", "blob", "zookeeper"); err != nil {
		return err
	}
	for _, name := range []string{"conf", "log", "tmp", "artifacts", "checkpoints", "savepoints"} {
		if err := os.MkdirAll(c.path(name), 0o700); err != nil {
			return err
		}
	}
	var text strings.Builder
	settings := c.settings()
	for _, name := range slices.Sorted(maps.Keys(settings)) {
		fmt.Fprintf(&text, "%s: %q\n", name, settings[name])
	}
	files := map[string]string{
		"conf/config.yaml":      text.String(),
		"conf/log4j.properties": log4j,
		"conf/zoo.cfg": fmt.Sprintf("tickTime=1000\ninitLimit=10\nsyncLimit=5\ndataDir=%s\nclientPort=%d\nclientPortAddress=127.0.0.1\nadmin.enableServer=false\n",
			c.path("zookeeper"), c.state.Ports["zookeeper"]),
		"boot": fmt.Sprintf(bootScript, c.state.Boot),
	}
	for name, text := range files {
		if err := os.WriteFile(c.path(filepath.FromSlash(name)), []byte(text), 0o700); err != nil {
			return err
		}
	}
	return c.save()
}

const log4j = `rootLogger.level = INFO
rootLogger.appenderRef.c.ref = C
appender.c.name = C
appender.c.type = CONSOLE
appender.c.layout.type = PatternLayout
appender.c.layout.pattern = %d{HH:mm:ss,SSS} %-5p %c{1} %m%n
`

// bootScript gives each boot a folder of its own.
const bootScript = `#!/bin/sh
dir="$MILLRACE_FLINK/tmp/boot-$$"
mkdir -p "$dir" && cd "$dir" && exec '%s' "$@" --semi_persist_dir="$dir"
`

func (c *Cluster) settings() map[string]string {
	port := func(name string) string { return strconv.Itoa(c.state.Ports[name]) }
	s := map[string]string{
		"jobmanager.rpc.address":          "127.0.0.1",
		"jobmanager.rpc.port":             port("rpc"),
		"jobmanager.bind-host":            "127.0.0.1",
		"rest.address":                    "127.0.0.1",
		"rest.bind-address":               "127.0.0.1",
		"rest.port":                       port("rest"),
		"blob.server.port":                port("blob"),
		"taskmanager.host":                "127.0.0.1",
		"taskmanager.bind-host":           "127.0.0.1",
		"io.tmp.dirs":                     c.path("tmp"),
		"state.checkpoints.dir":           "file://" + c.path("checkpoints"),
		"state.savepoints.dir":            "file://" + c.path("savepoints"),
		"heartbeat.interval":              "2000",
		"heartbeat.timeout":               "10000",
		"restart-strategy.type":           "fixed-delay",
		"metrics.reporters":               "prom",
		"web.submit.enable":               "false",
		"taskmanager.cpu.cores":           strconv.Itoa(c.state.Options.Slots),
		"cluster.evenly-spread-out-slots": "true",

		"restart-strategy.fixed-delay.attempts": "100",
		"restart-strategy.fixed-delay.delay":    "1 s",
		"metrics.reporter.prom.factory.class":   "org.apache.flink.metrics.prometheus.PrometheusReporterFactory",
		"taskmanager.numberOfTaskSlots":         strconv.Itoa(c.state.Options.Slots),
		"state.checkpoints.num-retained":        "3",

		"taskmanager.memory.framework.heap.size":     strconv.Itoa(frameworkHeap),
		"taskmanager.memory.framework.off-heap.size": "128m",
		"taskmanager.memory.task.heap.size":          strconv.FormatInt(c.state.Options.Heap, 10),
		"taskmanager.memory.task.off-heap.size":      "128m",
		"taskmanager.memory.network.min":             "128m",
		"taskmanager.memory.network.max":             "128m",
		"taskmanager.memory.managed.size":            "256m",
		"taskmanager.memory.jvm-metaspace.size":      "256m",
		"taskmanager.memory.jvm-overhead.min":        "192m",
		"taskmanager.memory.jvm-overhead.max":        "192m",
	}
	if c.state.Options.HighAvailability {
		maps.Copy(s, map[string]string{
			"high-availability.type":             "zookeeper",
			"high-availability.storageDir":       "file://" + c.path("ha"),
			"high-availability.cluster-id":       "/millrace",
			"high-availability.jobmanager.port":  port("rpc"),
			"high-availability.zookeeper.quorum": c.address("zookeeper"),
		})
	}
	maps.Copy(s, c.state.Options.Settings)
	return s
}
