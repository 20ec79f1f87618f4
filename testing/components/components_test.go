package components_test

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/millrace-ml/millrace/testing/components"
)

func TestKafka(t *testing.T) {
	b := components.Kafka(t)
	b.CreateTopic("events", 2)
	const n = 10_000
	fill := func() {
		b.Fill("events", n, func(buf []byte, i int) []byte { return fmt.Appendf(buf, `{"id":%d}`, i) })
	}
	count := func(want int) {
		t.Helper()
		c, err := kgo.NewClient(kgo.SeedBrokers(b.Addr), kgo.ConsumeTopics("events"))
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		for got := 0; got < want; {
			f := c.PollFetches(context.Background())
			if err := f.Err(); err != nil {
				t.Fatal(err)
			}
			got += f.NumRecords()
		}
	}
	fill()
	count(n)
	b.Kill()
	if c, err := net.Dial("tcp", b.Addr); err == nil {
		c.Close()
		t.Error("somebody answers at the address of a killed broker")
	}
	b.Restart()
	fill()
	count(2 * n)
	b.Restart()
	count(2 * n)
}

func TestRedis(t *testing.T) {
	r := components.Redis(t)
	do := func(command, want string) {
		t.Helper()
		c, err := net.Dial("tcp", r.Addr)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		fmt.Fprintf(c, "%s\r\n", command)
		if got, err := bufio.NewReader(c).ReadString('\n'); err != nil || strings.TrimSpace(got) != want {
			t.Errorf("%s: %q, %v; want %q", command, got, err, want)
		}
	}
	do("INCR n", ":1")
	r.Kill()
	r.Restart()
	do("INCR n", ":2")
	r.Restart()
	do("INCR n", ":3")
}

// send makes a request and returns its answer's status and body.
func send(t *testing.T, method, url, body string) (int, string) {
	t.Helper()
	r, err := http.NewRequest(method, url, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Content-Type", "application/json")
	answer, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	text, err := io.ReadAll(answer.Body)
	if err != nil {
		t.Fatal(err)
	}
	return answer.StatusCode, string(text)
}

func TestGCS(t *testing.T) {
	g := components.GCS(t)
	base := "http://" + g.Addr
	send(t, "POST", base+"/storage/v1/b?project=p", `{"name":"bucket"}`)
	send(t, "POST", base+"/upload/storage/v1/b/bucket/o?uploadType=media&name=o", "hello")
	holds := func() {
		t.Helper()
		if status, got := send(t, "GET", base+"/storage/v1/b/bucket/o/o?alt=media", ""); status != 200 || got != "hello" {
			t.Errorf("status %d, %q", status, got)
		}
	}
	holds()
	g.Kill()
	g.Restart()
	holds()
}

func TestS3(t *testing.T) {
	g := components.S3(t)
	c := s3.New(s3.Options{
		BaseEndpoint: aws.String("http://" + g.Addr), Region: "us-east-1", UsePathStyle: true,
		Credentials: credentials.NewStaticCredentialsProvider(components.S3Key, components.S3Secret, ""),
	})
	ctx := context.Background()
	if _, err := c.CreateBucket(ctx, &s3.CreateBucketInput{Bucket: aws.String("bucket")}); err != nil {
		t.Fatal(err)
	}
	put := func() error {
		_, err := c.PutObject(ctx, &s3.PutObjectInput{Bucket: aws.String("bucket"), Key: aws.String("o"), Body: strings.NewReader("hello"), IfNoneMatch: aws.String("*")})
		return err
	}
	if err := put(); err != nil {
		t.Fatal(err)
	}
	g.Kill()
	g.Restart()
	if err := put(); err == nil {
		t.Error("an object that is there is written where none may be")
	}
	o, err := c.GetObject(ctx, &s3.GetObjectInput{Bucket: aws.String("bucket"), Key: aws.String("o")})
	if err != nil {
		t.Fatal(err)
	}
	defer o.Body.Close()
	if got, err := io.ReadAll(o.Body); err != nil || string(got) != "hello" {
		t.Errorf("%q, %v", got, err)
	}
}

func TestPubSub(t *testing.T) {
	p := components.PubSub(t)
	topic := "http://" + p.Addr + "/v1/projects/project/topics/events"
	create := func() {
		t.Helper()
		if status, got := send(t, "PUT", topic, "{}"); status != 200 {
			t.Errorf("status %d, %s", status, got)
		}
	}
	create()
	if status, got := send(t, "POST", topic+":publish", `{"messages":[{"data":"aGVsbG8="}]}`); status != 200 || !strings.Contains(got, "messageIds") {
		t.Errorf("status %d, %s", status, got)
	}
	p.Kill()
	p.Restart()
	create() // nothing is left
}
