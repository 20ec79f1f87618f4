package components

import (
	"context"
	"fmt"
	"net/http"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/kinesis"
	"github.com/aws/aws-sdk-go-v2/service/kinesis/types"
)

// What [Kinesis] is asked with: it checks no signature.
const (
	KinesisKey    = "millrace"
	KinesisSecret = "millrace-secret"
	KinesisRegion = "us-east-1"
)

// Streams is a server that speaks Kinesis.
type Streams struct {
	*Server
	Client *kinesis.Client
}

// Kinesis starts kinesis-local, which speaks Kinesis over http, with shards that split and merge. It keeps
// everything in memory, throttles nobody, and takes about 2 ms of processor time a record that is put.
func Kinesis(t testing.TB) *Streams {
	t.Helper()
	s := spec{name: "kinesis-local-0.6.2", ports: 2, ready: httpReady("/healthcheck", http.StatusOK)}
	s.command = func(program, _ string, ports []int) (*exec.Cmd, error) {
		// It finds its certificate in the folder that it runs in.
		cmd := exec.Command("sh", "-c", `cd "$0" && exec node main.js`, filepath.Join(program, "node_modules", "kinesis-local"))
		cmd.Env = append(cmd.Environ(), fmt.Sprintf("KINESIS_MOCK_PLAIN_PORT=%d", ports[0]), fmt.Sprintf("KINESIS_MOCK_TLS_PORT=%d", ports[1]),
			"SHARD_LIMIT=1000", "LOG_LEVEL=ERROR", "CREATE_STREAM_DURATION=50ms", "DELETE_STREAM_DURATION=50ms", "SPLIT_SHARD_DURATION=50ms", "MERGE_SHARDS_DURATION=50ms")
		return cmd, nil
	}
	server := start(t, s, program(t, s.name, func(dir string) error {
		return tool(dir, nil, "npm", "install", "--no-audit", "--no-fund", "kinesis-local@0.6.2")
	}))
	return &Streams{server, kinesis.New(kinesis.Options{
		BaseEndpoint: aws.String("http://" + server.Addr), Region: KinesisRegion,
		Credentials: credentials.NewStaticCredentialsProvider(KinesisKey, KinesisSecret, ""),
	})}
}

// Address is a stream's address at an endpoint: the server's, or that of a proxy before it.
func (s *Streams) Address(endpoint, stream string) string {
	return "kinesis://" + stream + "?region=" + KinesisRegion + "&access_key=" + KinesisKey + "&secret_key=" + KinesisSecret + "&endpoint=http://" + endpoint
}

// CreateStream makes a stream, and returns when it is there.
func (s *Streams) CreateStream(name string, shards int) {
	s.t.Helper()
	_, err := s.Client.CreateStream(context.Background(), &kinesis.CreateStreamInput{StreamName: &name, ShardCount: aws.Int32(int32(shards))})
	if err != nil {
		s.t.Fatal(err)
	}
	s.Active(name)
}

// Active returns when a change of a stream is done.
func (s *Streams) Active(name string) {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), readyIn)
	defer cancel()
	for {
		out, err := s.Client.DescribeStreamSummary(ctx, &kinesis.DescribeStreamSummaryInput{StreamName: &name})
		if err == nil && out.StreamDescriptionSummary.StreamStatus == types.StreamStatusActive {
			return
		}
		if ctx.Err() != nil {
			s.t.Fatalf("stream %s doesn't become active: %v", name, err)
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// Shards lists a stream's shards.
func (s *Streams) Shards(name string) []types.Shard {
	s.t.Helper()
	out, err := s.Client.ListShards(context.Background(), &kinesis.ListShardsInput{StreamName: &name})
	if err != nil {
		s.t.Fatal(err)
	}
	return out.Shards
}

// Put appends values to the shard that has a hash key, in order.
func (s *Streams) Put(name, hash string, values ...string) {
	s.t.Helper()
	for len(values) > 0 {
		n := min(len(values), 500)
		in := &kinesis.PutRecordsInput{StreamName: &name}
		for _, v := range values[:n] {
			in.Records = append(in.Records, types.PutRecordsRequestEntry{Data: []byte(v), PartitionKey: aws.String("k"), ExplicitHashKey: &hash})
		}
		out, err := s.Client.PutRecords(context.Background(), in)
		if err != nil || aws.ToInt32(out.FailedRecordCount) > 0 {
			s.t.Fatalf("putting %d records into %s: %v", n, name, err)
		}
		values = values[n:]
	}
}
