package blob

import (
	"bytes"
	"compress/gzip"
	"fmt"
	"io"
	"net/http"
	"path"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/s3"

	"github.com/millrace-ml/millrace/testing/components"
	sinkdriver "github.com/millrace-ml/millrace/transforms/sink/driver"
	"github.com/millrace-ml/millrace/transforms/source/driver"
)

// TestFollow follows a prefix on memory, on an S3 server and on one that speaks Google Cloud Storage.
func TestFollow(t *testing.T) {
	t.Run("mem", func(t *testing.T) { followCases(t, "mem://followed/", "?") })
	t.Run("s3", func(t *testing.T) {
		server := components.S3(t)
		t.Setenv("AWS_ACCESS_KEY_ID", components.S3Key)
		t.Setenv("AWS_SECRET_ACCESS_KEY", components.S3Secret)
		c := s3.New(s3.Options{
			BaseEndpoint: aws.String("http://" + server.Addr), Region: "us-east-1", UsePathStyle: true,
			Credentials: credentials.NewStaticCredentialsProvider(components.S3Key, components.S3Secret, ""),
		})
		if _, err := c.CreateBucket(t.Context(), &s3.CreateBucketInput{Bucket: aws.String("bucket")}); err != nil {
			t.Fatal(err)
		}
		followCases(t, "s3://bucket/", "?region=us-east-1&use_path_style=true&endpoint=http://"+server.Addr+"&")
		if _, err := (objects{}).Logs(t.Context(), "s3://none/x/?region=us-east-1&use_path_style=true&endpoint=http://"+server.Addr); err == nil {
			t.Error("a bucket that isn't there is followed")
		}
		away(t, server, "s3://bucket/away/", "?region=us-east-1&use_path_style=true&endpoint=http://"+server.Addr+"&")
	})
	t.Run("gs", func(t *testing.T) {
		server := components.GCS(t)
		t.Setenv("STORAGE_EMULATOR_HOST", server.Addr)
		answer, err := http.Post("http://"+server.Addr+"/storage/v1/b?project=p", "application/json", strings.NewReader(`{"name":"bucket"}`))
		if err != nil {
			t.Fatal(err)
		}
		answer.Body.Close()
		followCases(t, "gs://bucket/", "?anonymous=true&")
	})
}

type following struct {
	t *testing.T
	driver.Follower
	got   []string
	next  string
	after map[string]int
}

func follow(t *testing.T, address, next string) *following {
	t.Helper()
	parts, err := objects{}.Logs(t.Context(), address)
	if err != nil || len(parts) != 1 {
		t.Fatalf("%v, %v", parts, err)
	}
	f, err := objects{}.Follow(t.Context(), address, []driver.Position{{Partition: parts[0].Name, Next: next}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return &following{t: t, Follower: f, next: next, after: map[string]int{}}
}

func (f *following) poll(limit int) int {
	f.t.Helper()
	chunks, err := f.Poll(f.t.Context(), 200*time.Millisecond, limit)
	if err != nil {
		f.t.Fatal(err)
	}
	before := len(f.got)
	for _, c := range chunks {
		for _, r := range c.Records {
			f.got = append(f.got, path.Base(c.Source)+":"+string(r.Value))
		}
		if c.Fault != nil {
			f.got = append(f.got, path.Base(c.Source)+"! "+c.Fault.Error())
		}
		f.next = c.Next
		f.after[c.Next] = len(f.got)
	}
	return len(f.got) - before
}

func (f *following) read(n int) {
	f.t.Helper()
	for deadline := time.Now().Add(time.Minute); len(f.got) < n; f.poll(1000) {
		if time.Now().After(deadline) {
			f.t.Fatalf("%d records, want %d: %.300q", len(f.got), n, f.got)
		}
	}
	if len(f.got) > n || f.poll(1000) > 0 {
		f.t.Fatalf("%d records too many: %.300q", len(f.got)-n, f.got)
	}
}

func opener(t *testing.T, address string) func(name, text string) {
	st, _, err := objects{}.OpenStore(t.Context(), address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { st.Close() })
	return func(name, text string) {
		t.Helper()
		var w sinkdriver.Writer
		w, err := st.Create(t.Context(), name)
		if err == nil {
			if _, err = io.WriteString(w, text); err == nil {
				err = w.Close()
			}
		}
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
	}
}

func followCases(t *testing.T, bucket, query string) {
	put := opener(t, bucket+"in/"+strings.TrimRight(query, "?&"))
	address := bucket + "in/" + query + "poll=50ms"
	r := follow(t, address, "") // nothing is there
	r.read(0)
	var want []string
	text := func(name string, n int) string {
		var b strings.Builder
		for i := range n {
			want = append(want, fmt.Sprintf("%s:%d", name, i))
			fmt.Fprintln(&b, i)
		}
		return b.String()
	}
	var z bytes.Buffer
	w := gzip.NewWriter(&z)
	_, _ = io.WriteString(w, text("c.gz", 400))
	_ = w.Close()
	put("a.jsonl", "") // of which servers have no range to give
	put("c.gz", z.String())
	r.read(400)
	put("d", strings.TrimSuffix(text("d", 1000), "\n")) // larger than what is polled
	put("deep/e", "1\n")
	put("_staging", "1\n")
	r.read(1400)
	put("a", text("a", 2)) // sorts before all
	r.read(1402)
	put("d", "anew\n")
	want = append(want, "d:anew")
	r.read(1403)
	if !slices.Equal(r.got, want) {
		t.Errorf("read %.300q, want %.300q", r.got, want)
	}
	slices.Sort(want)
	tried := 0
	for next, n := range r.after {
		if tried++; tried > 5 {
			break
		}
		again := follow(t, address, next)
		again.read(len(r.got) - max(n, 0) - lost(r.got, n))
		again.Close()
	}
	if parts, err := (objects{}).Partitions(t.Context(), address); err != nil || len(parts) != 4 { // read to its end
		t.Errorf("%v, %v", parts, err)
	}
	many(t, bucket, query)
	glob := follow(t, bucket+"in/*/e"+query+"poll=50ms", "")
	glob.read(1)
	if glob.got[0] != "e:1" {
		t.Errorf("a glob: %q", glob.got)
	}
}

// many follows more objects than are listed at each look.
func many(t *testing.T, bucket, query string) {
	put := opener(t, bucket+"many/"+strings.TrimRight(query, "?&"))
	const n = 1050
	for i := range n {
		put(fmt.Sprintf("m-%04d", i), "1\n")
	}
	r := follow(t, bucket+"many/"+query+"poll=20ms", "")
	r.read(n)
	put("z", "later\n")
	r.read(n + 1)
	put("a", "earlier\n")
	r.read(n + 2)
	if got := r.got[n:]; !slices.Equal(got, []string{"z:later", "a:earlier"}) {
		t.Errorf("behind many: %q", got)
	}
	if size := len(r.next); size > 32<<10 {
		t.Errorf("a position of %d bytes", size)
	}
}

// lost is how many records of d a reader that stood before the object was overwritten can't find any more.
func lost(got []string, n int) int {
	lost := 0
	for i, g := range got {
		if i >= n && strings.HasPrefix(g, "d:") && g != "d:anew" {
			lost++
		}
	}
	return lost
}

// away stops a server while it is read.
func away(t *testing.T, server *components.Server, prefix, query string) {
	put := opener(t, prefix+strings.TrimRight(query, "?&"))
	put("a", "1\n")
	r := follow(t, prefix+query+"poll=50ms", "")
	r.read(1)
	server.Kill()
	r.poll(1000)
	server.Restart()
	put("b", "2\n")
	r.read(2)
}
