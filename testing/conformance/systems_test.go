package conformance

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/redis/go-redis/v9"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
	"gocloud.dev/blob/fileblob"
	"gocloud.dev/blob/memblob"

	"github.com/millrace-ml/millrace/models/registry"
	"github.com/millrace-ml/millrace/testing/components"
	"github.com/millrace-ml/millrace/testing/conformance/memory"
	_ "github.com/millrace-ml/millrace/transforms/connect/blob"
	_ "github.com/millrace-ml/millrace/transforms/connect/file"
	_ "github.com/millrace-ml/millrace/transforms/connect/kafka"
	_ "github.com/millrace-ml/millrace/transforms/connect/redis"
	_ "github.com/millrace-ml/millrace/transforms/connect/simulate"
	_ "github.com/millrace-ml/millrace/transforms/connect/webhook"
	"github.com/millrace-ml/millrace/transforms/source/driver"
)

// seams are what a system is driven as; nil where it isn't.
type seams struct {
	log       *log
	publisher *publisher
	store     *store
	registry  func(t *testing.T, name string) shelf
	batches   string // an address
}

// systems start what they need once for all suites.
var systems = []struct {
	name  string
	begin func(t *testing.T) seams
}{
	{"memory", func(*testing.T) seams { return seams{log: &memoryLog, publisher: &memoryPublisher} }},
	{"kafka", func(t *testing.T) seams {
		b := components.Kafka(t)
		return seams{log: kafkaLog(b), publisher: kafkaPublisher(b)}
	}},
	{"kinesis", func(t *testing.T) seams {
		s := components.Kinesis(t)
		return seams{log: kinesisLog(s), publisher: kinesisPublisher(s)}
	}},
	{"file", func(*testing.T) seams {
		return seams{
			log: &fileLog, registry: fileShelf,
			store: &store{func(t *testing.T, _ string) (string, string) { return t.TempDir() + "/", "" }, "/no/such/folder/x.jsonl"},
		}
	}},
	{"file URL", func(*testing.T) seams {
		return seams{store: &store{func(t *testing.T, _ string) (string, string) { return "file://" + t.TempDir() + "/", "" }, "file:///no/such/folder/x.jsonl"}}
	}},
	{"mem", func(*testing.T) seams {
		return seams{
			store:    &store{func(_ *testing.T, name string) (string, string) { return "mem://" + name + "/", "" }, "mem://absent/x.jsonl"},
			registry: memShelf, log: &objectsLog,
		}
	}},
	{"s3", func(t *testing.T) seams {
		buckets := s3Buckets(t)
		return seams{
			store:    &store{folders(buckets), "s3://absent/x.jsonl?region=us-east-1&use_path_style=true&endpoint=http://127.0.0.1:1&accelerate=hunter2"},
			registry: shelves(buckets),
		}
	}},
	{"gs", func(t *testing.T) seams {
		buckets := gsBuckets(t)
		return seams{store: &store{folders(buckets), "gs://absent/x.jsonl?anonymous=true&access_id=hunter2"}, registry: shelves(buckets)}
	}},
	{"simulate", func(*testing.T) seams { return seams{log: &simulateLog, batches: simulated} }},
	{"redis", func(t *testing.T) seams { return seams{publisher: redisPublisher(components.Redis(t))} }},
	{"webhook", func(*testing.T) seams { return seams{publisher: &webhookPublisher} }},
}

func TestSystems(t *testing.T) {
	for _, system := range systems {
		t.Run(system.name, func(t *testing.T) {
			s := system.begin(t)
			if s.log != nil {
				t.Run("Log", func(t *testing.T) { testLog(t, *s.log) })
			}
			if s.publisher != nil {
				t.Run("Sender", func(t *testing.T) { testSender(t, *s.publisher) })
			}
			if s.store != nil {
				t.Run("Store", func(t *testing.T) { testStore(t, *s.store) })
			}
			if s.registry != nil {
				t.Run("Registry", func(t *testing.T) { testRegistry(t, s.registry) })
			}
			if s.batches != "" {
				t.Run("Batches", func(t *testing.T) { testBatches(t, s.batches) })
			}
		})
	}
}

var memoryLog = log{
	several: true, lag: true, absent: "memory://absent?password=hunter2",
	topic: func(t *testing.T, name string) *topic {
		var m *memory.Topic
		n := 0
		return &topic{
			address: "memory://" + name,
			open: func(partitions int) {
				var names []string
				for ; n < partitions; n++ {
					names = append(names, strconv.Itoa(n))
				}
				m = memory.New(t, name, names...)
			},
			put: func(partition int, values ...string) {
				for _, v := range values {
					m.Append(memory.Record{Partition: strconv.Itoa(partition), Value: []byte(v)})
				}
			},
			add: func() { m.Add(strconv.Itoa(n)) },
		}
	},
}

var memoryPublisher = publisher{
	orders: true, absent: "memory://absent?password=hunter2",
	target: func(t *testing.T, name string) *target {
		m := memory.New(t, name)
		return &target{address: m.Address(), came: func() (all []string) {
			for _, r := range m.Records("0") {
				all = append(all, string(r.Value))
			}
			return all
		}}
	},
}

const absentKafka = "kafka://127.0.0.1:1/absent?sasl=plain&user=somebody&password=hunter2"

func kafkaLog(broker *components.Broker) *log {
	return &log{several: true, lag: true, absent: absentKafka, topic: func(t *testing.T, name string) *topic {
		c, err := kgo.NewClient(kgo.SeedBrokers(broker.Addr), kgo.RecordPartitioner(kgo.ManualPartitioner()))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(c.Close)
		n := 0
		return &topic{
			address: "kafka://" + broker.Addr + "/" + name,
			open: func(partitions int) {
				n = partitions
				broker.CreateTopic(name, partitions)
			},
			put: func(partition int, values ...string) {
				var records []*kgo.Record
				for _, v := range values {
					records = append(records, &kgo.Record{Topic: name, Partition: int32(partition), Value: []byte(v)})
				}
				if err := c.ProduceSync(context.Background(), records...).FirstErr(); err != nil {
					t.Fatal(err)
				}
			},
			add: func() {
				if _, err := kadm.NewClient(c).UpdatePartitions(context.Background(), n+1, name); err != nil {
					t.Fatal(err)
				}
				c.ForceMetadataRefresh()
			},
		}
	}}
}

func kafkaPublisher(broker *components.Broker) *publisher {
	return &publisher{absent: absentKafka, orders: true, target: func(t *testing.T, name string) *target {
		broker.CreateTopic(name, 3, "max.message.bytes", "20000", "compression.type", "uncompressed")
		address := "kafka://" + broker.Addr + "/" + name
		return &target{
			address: address,
			refused: `{"k":"k1","s":"` + noise(60_000) + `"}`,
			came: func() (all []string) {
				r := follow(t, lookup(t, address).(driver.Log), address, nil)
				for lag := int64(1); lag > 0; {
					r.poll(t, 100*time.Millisecond, 1<<20)
					lag = 0
					for _, n := range r.Lag() {
						lag += n
					}
				}
				for _, values := range r.got {
					all = append(all, values...)
				}
				return all
			},
		}
	}}
}

// noise is text that doesn't shrink much.
func noise(n int) string {
	b := make([]byte, n)
	x := uint32(1)
	for i := range b {
		x = x*1664525 + 1013904223
		b[i] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_"[x>>26]
	}
	return string(b)
}

var fileLog = log{
	absent: "/no/such/folder/x/*.jsonl",
	topic: func(t *testing.T, name string) *topic {
		dir := t.TempDir()
		return &topic{
			address: "file://" + dir + "?poll=10ms",
			open:    func(int) {},
			put: func(_ int, values ...string) {
				f, err := os.OpenFile(filepath.Join(dir, "a.jsonl"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
				if err == nil {
					_, err = f.WriteString(strings.Join(values, "\n") + "\n")
				}
				if err := errors.Join(err, f.Close()); err != nil {
					t.Fatal(err)
				}
			},
		}
	},
}

// objectsLog grows by objects, which are whole when they come.
var objectsLog = log{
	absent: "mem://log-absent/x.jsonl?poll=hunter2",
	topic: func(t *testing.T, name string) *topic {
		folder := "mem://" + name + "/"
		s, _, err := opener(t, folder).OpenStore(t.Context(), folder)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { s.Close() })
		p, n := &place{t: t, store: s}, 0
		return &topic{
			address: folder + "?poll=10ms",
			open:    func(int) {},
			put: func(_ int, values ...string) {
				n++
				p.put(fmt.Sprintf("%06d.jsonl", n), strings.Join(values, "\n")+"\n")
			},
		}
	},
}

const simulated = "simulate://fraud?customers=20&terminals=40&days=5"

var simulateLog = log{
	absent: "simulate://fraud?days=none",
	topic: func(t *testing.T, _ string) *topic {
		r := follow(t, lookup(t, simulated).(driver.Log), simulated, nil)
		for !r.ended {
			r.poll(t, time.Second, 1<<20)
		}
		return &topic{address: simulated, open: func(int) {}, has: r.got[simulated]}
	},
}

func redisPublisher(server *components.Server) *publisher {
	return &publisher{latest: true, absent: "redis://somebody:hunter2@127.0.0.1:1/0", target: func(t *testing.T, name string) *target {
		return &target{
			address: "redis://" + server.Addr + "?prefix=" + name + ":&key=k",
			refused: `{"other":1}`,
			kill: func() func() {
				server.Kill()
				return server.Restart
			},
			came: func() (all []string) {
				c := redis.NewClient(&redis.Options{Addr: server.Addr})
				defer c.Close()
				keys, err := c.Keys(t.Context(), name+":*").Result()
				for _, k := range keys {
					v, bad := c.HGet(t.Context(), k, "value").Result()
					all, err = append(all, v), errors.Join(err, bad)
				}
				if err != nil {
					t.Fatal(err)
				}
				return all
			},
		}
	}}
}

var webhookPublisher = publisher{orders: true, target: func(t *testing.T, _ string) *target {
	var mu sync.Mutex
	var all []string
	var down atomic.Bool
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		b, _ := io.ReadAll(r.Body)
		switch {
		case down.Load():
			w.WriteHeader(http.StatusServiceUnavailable)
			return
		case strings.Contains(string(b), "refuse me"):
			w.WriteHeader(http.StatusUnprocessableEntity)
			return
		}
		mu.Lock()
		defer mu.Unlock()
		for lines := bufio.NewScanner(strings.NewReader(string(b))); lines.Scan(); {
			all = append(all, lines.Text())
		}
	}))
	t.Cleanup(s.Close)
	return &target{
		address: strings.Replace(s.URL, "://", "://somebody:hunter2@", 1) + "/", refused: `{"k":"k1","s":"refuse me"}`,
		kill: func() func() {
			down.Store(true)
			return func() { down.Store(false) }
		},
		came: func() []string {
			mu.Lock()
			defer mu.Unlock()
			return slices.Clone(all)
		},
	}
}}

func memShelf(*testing.T, string) shelf {
	b := memblob.OpenBucket(nil)
	return shelf{func() (*registry.Registry, error) { return registry.New(b, clock()), nil }, b}
}

func fileShelf(t *testing.T, _ string) shelf {
	dir := t.TempDir()
	b, err := fileblob.OpenBucket(dir, &fileblob.Options{NoTempDir: true, Metadata: fileblob.MetadataDontWrite})
	if err != nil {
		t.Fatal(err)
	}
	return shelf{opens(t, dir), b}
}

// folders makes folders of buckets.
func folders(bucket func(t *testing.T, name string) (bucket, query string)) func(*testing.T, string) (string, string) {
	return func(t *testing.T, name string) (string, string) {
		address, query := bucket(t, name)
		return address + "/", query
	}
}

// s3Buckets starts an S3 server, and gives what makes a bucket: its URL and the URL's query.
func s3Buckets(t *testing.T) func(t *testing.T, name string) (bucket, query string) {
	server := components.S3(t)
	t.Setenv("AWS_ACCESS_KEY_ID", components.S3Key)
	t.Setenv("AWS_SECRET_ACCESS_KEY", components.S3Secret)
	c := s3.New(s3.Options{
		BaseEndpoint: aws.String("http://" + server.Addr), Region: "us-east-1", UsePathStyle: true,
		Credentials: credentials.NewStaticCredentialsProvider(components.S3Key, components.S3Secret, ""),
	})
	return func(t *testing.T, name string) (bucket, query string) {
		if _, err := c.CreateBucket(t.Context(), &s3.CreateBucketInput{Bucket: aws.String(name)}); err != nil {
			t.Fatal(err)
		}
		return "s3://" + name, "?region=us-east-1&use_path_style=true&endpoint=http://" + server.Addr
	}
}

// gsBuckets does so with one that speaks Google Cloud Storage.
func gsBuckets(t *testing.T) func(t *testing.T, name string) (bucket, query string) {
	server := components.GCS(t)
	t.Setenv("STORAGE_EMULATOR_HOST", server.Addr)
	return func(t *testing.T, name string) (bucket, query string) {
		answer, err := http.Post("http://"+server.Addr+"/storage/v1/b?project=p", "application/json", strings.NewReader(`{"name":"`+name+`"}`))
		if err != nil {
			t.Fatal(err)
		}
		answer.Body.Close()
		return "gs://" + name, "?anonymous=true"
	}
}
