package components

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
)

const kafkaVersion = "4.3.1"

// Broker is an Apache Kafka of one broker.
type Broker struct {
	*Server
	// SASLAddr is where clients have to say who they are: by PLAIN as [User] with [Password], or by
	// SCRAM as whom [Broker.Admin] has made with AlterUserSCRAMs.
	SASLAddr string
}

// Who may come in at Broker.SASLAddr.
const (
	User     = "millrace"
	Password = "millrace-secret"
)

// Kafka starts a broker; it takes some seconds and about 400 MB of memory.
func Kafka(t testing.TB) *Broker {
	t.Helper()
	s := spec{name: "kafka-" + kafkaVersion, ports: 3, command: kafkaCommand, ready: kafkaReady}
	dir := program(t, s.name, func(dir string) error {
		return maven(dir, "org.apache.kafka:kafka_2.13:"+kafkaVersion, "org.apache.kafka:kafka-tools:"+kafkaVersion,
			"org.slf4j:slf4j-simple:1.7.36") // Kafka uses slf4j 1.7: a binding of 2.x logs nothing
	})
	server := start(t, s, dir)
	return &Broker{server, fmt.Sprintf("127.0.0.1:%d", server.ports[2])}
}

// The settings of one broker that also is the controller. Those of the second block are for topics
// that the broker makes for itself: without them the first group hangs. Those of the third let a
// broker that was killed come back in 7 s instead of 14.
const kafkaSettings = `process.roles=broker,controller
node.id=1
controller.quorum.bootstrap.servers=127.0.0.1:%[2]d
listeners=PLAINTEXT://127.0.0.1:%[1]d,CONTROLLER://127.0.0.1:%[2]d,SASL://127.0.0.1:%[3]d
advertised.listeners=PLAINTEXT://127.0.0.1:%[1]d,CONTROLLER://127.0.0.1:%[2]d,SASL://127.0.0.1:%[3]d
listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT,SASL:SASL_PLAINTEXT
controller.listener.names=CONTROLLER
log.dirs=%[4]s
auto.create.topics.enable=false
sasl.enabled.mechanisms=PLAIN,SCRAM-SHA-256,SCRAM-SHA-512
listener.name.sasl.plain.sasl.jaas.config=org.apache.kafka.common.security.plain.PlainLoginModule required user_%[5]s="%[6]s";
listener.name.sasl.scram-sha-256.sasl.jaas.config=org.apache.kafka.common.security.scram.ScramLoginModule required;
listener.name.sasl.scram-sha-512.sasl.jaas.config=org.apache.kafka.common.security.scram.ScramLoginModule required;

offsets.topic.replication.factor=1
offsets.topic.num.partitions=1
share.coordinator.state.topic.replication.factor=1
share.coordinator.state.topic.min.isr=1
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
transaction.state.log.num.partitions=1
group.initial.rebalance.delay.ms=0

broker.session.timeout.ms=3000
broker.heartbeat.interval.ms=500
`

func kafkaCommand(program, data string, ports []int) (*exec.Cmd, error) {
	java, err := exec.LookPath("java")
	if err != nil {
		return nil, fmt.Errorf("a Java of 17 or later is needed: %w", err)
	}
	settings, logs, libs := filepath.Join(data, "server.properties"), filepath.Join(data, "logs"), filepath.Join(program, "libs", "*")
	if _, err := os.Stat(settings); err != nil {
		text := fmt.Sprintf(kafkaSettings, ports[0], ports[1], ports[2], logs, User, Password)
		err := os.WriteFile(settings, []byte(text), 0o666)
		if err == nil {
			err = tool(data, nil, java, "-Xshare:auto", "-XX:TieredStopAtLevel=1", "-cp", libs, "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn",
				"kafka.tools.StorageTool", "format", "--standalone", "-t", "MkU3OEVBNTcwNTJENDM2Qg", "-c", settings)
		}
		if err != nil {
			return nil, errors.Join(err, os.Remove(settings))
		}
	}
	return exec.Command(java, "-Xms256m", "-Xmx512m", "-XX:+UseSerialGC", "-cp", libs, "kafka.Kafka", settings), nil
}

func kafkaReady(ctx context.Context, addr string) error {
	c, err := kgo.NewClient(kgo.SeedBrokers(addr), kgo.RequestRetries(0))
	if err != nil {
		return err
	}
	defer c.Close()
	// A broker answers before it may lead partitions: only then it is in its own metadata.
	brokers, err := kadm.NewClient(c).ListBrokers(ctx)
	if err == nil && len(brokers) == 0 {
		err = errors.New("no broker is registered")
	}
	return err
}

// Admin is a client to make and change topics with. It ends with the test.
func (b *Broker) Admin() *kadm.Client {
	b.t.Helper()
	c, err := kgo.NewClient(kgo.SeedBrokers(b.Addr))
	if err != nil {
		b.t.Fatal(err)
	}
	b.t.Cleanup(c.Close)
	return kadm.NewClient(c)
}

// CreateTopic makes a topic, and returns when the broker knows it; settings are pairs of a name and a
// value.
func (b *Broker) CreateTopic(topic string, partitions int, settings ...string) {
	b.t.Helper()
	values := map[string]*string{}
	for i := 0; i+1 < len(settings); i += 2 {
		values[settings[i]] = &settings[i+1]
	}
	ctx, cancel := context.WithTimeout(context.Background(), readyIn)
	defer cancel()
	admin := b.Admin()
	_, err := admin.CreateTopic(ctx, int32(partitions), 1, values, topic)
	for err == nil { // what the controller has made the broker learns a little later
		topics, failed := admin.ListTopics(ctx, topic)
		if err = failed; err == nil && topics.Error() == nil && len(topics[topic].Partitions) == partitions {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	b.t.Fatalf("making topic %s: %v", topic, err)
}

// Fill appends n records to a topic, spread over its partitions in runs. Append appends the value of
// record i; it is called from one goroutine, in order.
func (b *Broker) Fill(topic string, n int, appendValue func(buf []byte, i int) []byte) {
	b.t.Helper()
	c, err := kgo.NewClient(kgo.SeedBrokers(b.Addr), kgo.DefaultProduceTopic(topic),
		kgo.ProducerBatchCompression(kgo.SnappyCompression()), kgo.MaxBufferedRecords(200_000), kgo.RecordPartitioner(kgo.StickyPartitioner()))
	if err != nil {
		b.t.Fatal(err)
	}
	defer c.Close()
	var failed error // set by one goroutine, read after Flush
	done := func(_ *kgo.Record, err error) {
		if failed == nil {
			failed = err
		}
	}
	var buf []byte
	var records []kgo.Record
	for i := range n {
		if len(records) == 0 {
			records = make([]kgo.Record, 256)
		}
		if cap(buf)-len(buf) < 4096 {
			buf = make([]byte, 0, 256<<10)
		}
		buf = appendValue(buf[len(buf):], i)
		records[0].Value = buf[:len(buf):len(buf)]
		c.Produce(context.Background(), &records[0], done)
		records = records[1:]
	}
	if err := errors.Join(c.Flush(context.Background()), failed); err != nil {
		b.t.Fatalf("filling topic %s: %v", topic, err)
	}
}
