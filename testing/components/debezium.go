package components

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

const debeziumVersion = "3.5.0.Final"

// ChangePrefix begins the names of topics with changes: those of table public.tx are in cdc.public.tx.
const ChangePrefix = "cdc"

// Debezium starts a Kafka Connect worker that copies the changes of a database to a broker, first the rows
// that are there. It takes half a minute and 650 MB of memory. Settings are pairs of a name and a value of
// the connector, such as "table.include.list", "public.tx", which has to be there.
//
// The worker notes how far it is when it is stopped, and not before: one that was killed sends all changes
// of its life again.
func Debezium(t testing.TB, b *Broker, d *Database, settings ...string) *Server {
	t.Helper()
	s := spec{name: "debezium-" + debeziumVersion, ports: 1, ready: debeziumReady}
	s.command = func(program, data string, ports []int) (*exec.Cmd, error) {
		return debeziumCommand(b, d, program, data, ports[0], settings)
	}
	dir := program(t, s.name, func(dir string) error {
		err := maven(dir, "io.debezium:debezium-connector-postgres:"+debeziumVersion)
		for _, theirs := range []string{"kafka-clients", "connect-", "slf4j-", "zstd-jni", "snappy-java", "lz4-java"} { // Connect brings its own
			found, globErr := filepath.Glob(filepath.Join(dir, "libs", theirs+"*.jar"))
			err = errors.Join(err, globErr)
			for _, jar := range found {
				err = errors.Join(err, os.Remove(jar))
			}
		}
		return err
	})
	return start(t, s, dir)
}

const connectSettings = `bootstrap.servers=%s
plugin.path=%s
plugin.discovery=service_load
offset.storage.file.filename=%s
offset.flush.interval.ms=3600000
key.converter=org.apache.kafka.connect.json.JsonConverter
value.converter=org.apache.kafka.connect.json.JsonConverter
key.converter.schemas.enable=false
value.converter.schemas.enable=false
listeners=http://127.0.0.1:%d
`

// Without a slot.name of its own a second connector would take the first one's place.
const debeziumSettings = `name=cdc
connector.class=io.debezium.connector.postgresql.PostgresConnector
tasks.max=1
plugin.name=pgoutput
database.hostname=%s
database.port=%s
database.user=postgres
database.password=unused
database.dbname=postgres
topic.prefix=` + ChangePrefix + `
publication.autocreate.mode=filtered
snapshot.mode=initial
topic.creation.default.replication.factor=1
topic.creation.default.partitions=2
`

func debeziumCommand(b *Broker, d *Database, program, data string, port int, settings []string) (*exec.Cmd, error) {
	java, err := exec.LookPath("java")
	if err != nil {
		return nil, fmt.Errorf("a Java of 17 or later is needed: %w", err)
	}
	host, dbPort, err := net.SplitHostPort(d.Addr)
	if err != nil {
		return nil, err
	}
	plugins := filepath.Join(data, "plugins")
	if err := os.MkdirAll(plugins, 0o777); err != nil {
		return nil, err
	}
	if err := os.Symlink(filepath.Join(program, "libs"), filepath.Join(plugins, "debezium")); err != nil && !errors.Is(err, os.ErrExist) {
		return nil, err
	}
	worker, connector := filepath.Join(data, "worker.properties"), filepath.Join(data, "connector.properties")
	var text strings.Builder
	fmt.Fprintf(&text, debeziumSettings, host, dbPort)
	for i := 0; i+1 < len(settings); i += 2 {
		fmt.Fprintf(&text, "%s=%s\n", settings[i], settings[i+1])
	}
	if err := errors.Join(
		os.WriteFile(worker, fmt.Appendf(nil, connectSettings, b.Addr, plugins, filepath.Join(data, "offsets"), port), 0o666),
		os.WriteFile(connector, []byte(text.String()), 0o666),
	); err != nil {
		return nil, err
	}
	return exec.Command(java, "-Xmx384m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-Xshare:auto", "-cp", filepath.Join(b.program, "libs", "*"),
		"-Dorg.slf4j.simpleLogger.defaultLogLevel=warn", "org.apache.kafka.connect.cli.ConnectStandalone", worker, connector), nil
}

func debeziumReady(ctx context.Context, addr string) error {
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+addr+"/connectors/cdc/status", nil)
	if err != nil {
		return err
	}
	answer, err := http.DefaultClient.Do(r)
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	var status struct {
		Tasks []struct{ State, Trace string }
	}
	if err := json.NewDecoder(answer.Body).Decode(&status); err != nil {
		return err
	}
	if len(status.Tasks) != 1 || status.Tasks[0].State != "RUNNING" {
		return fmt.Errorf("its task is not running: %v", status.Tasks)
	}
	return nil
}
