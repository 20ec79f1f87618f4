package blob

import (
	"bytes"
	"context"
	"errors"
	"io"
	"io/fs"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/s3"

	"github.com/millrace-ml/millrace/testing/components"
	"github.com/millrace-ml/millrace/transforms/source/driver"
)

// TestServers takes the driver through the same cases on memory, on an S3 server and on one that speaks
// Google Cloud Storage.
func TestServers(t *testing.T) {
	t.Run("mem", func(t *testing.T) { cases(t, "mem://bucket/", "") })
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
		cases(t, "s3://bucket/", "?region=us-east-1&use_path_style=true&endpoint=http://"+server.Addr)
	})
	t.Run("gs", func(t *testing.T) {
		server := components.GCS(t)
		t.Setenv("STORAGE_EMULATOR_HOST", server.Addr)
		answer, err := http.Post("http://"+server.Addr+"/storage/v1/b?project=p", "application/json", strings.NewReader(`{"name":"bucket"}`))
		if err != nil {
			t.Fatal(err)
		}
		answer.Body.Close()
		cases(t, "gs://bucket/", "?anonymous=true")
	})
}

func cases(t *testing.T, bucket, query string) {
	ctx := t.Context()
	st, target, err := objects{}.OpenStore(ctx, bucket+"out/"+query)
	if err != nil || target != "" {
		t.Fatalf("target %q, %v", target, err)
	}
	defer st.Close()
	put := func(name, text string) {
		t.Helper()
		w, err := st.Create(ctx, name)
		if err == nil {
			if _, err = io.WriteString(w, text); err == nil {
				err = w.Close()
			}
		}
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
	}
	get := func(name string, offset int64) string {
		t.Helper()
		r, err := st.Open(ctx, name, offset)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		defer r.Close()
		b, err := io.ReadAll(r)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		return string(b)
	}
	put("_staging/a", "one\ntwo\n")
	put("part-1.jsonl", "three\n")
	put("part-1.jsonl", "four\n") // replaced
	if err := st.Copy(ctx, "_staging/a", "part-0.jsonl"); err != nil {
		t.Fatal(err)
	}
	if got := get("part-0.jsonl", 4); got != "two\n" {
		t.Errorf("from offset 4: %q", got)
	}
	if got := get("part-1.jsonl", 0); got != "four\n" {
		t.Errorf("replaced: %q", got)
	}
	w, err := st.Create(ctx, "given-up")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write(bytes.Repeat([]byte("x"), 1<<16)); err != nil {
		t.Fatal(err)
	}
	w.Abort()
	if names, err := st.List(ctx, "part-"); err != nil || !slices.Equal(names, []string{"part-0.jsonl", "part-1.jsonl"}) {
		t.Errorf("%v, %v", names, err)
	}
	for _, name := range []string{"given-up", "never-was"} {
		if _, err := st.Open(ctx, name, 0); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if err := errors.Join(st.Delete(ctx, "_staging/a"), st.Delete(ctx, "_staging/a")); err != nil {
		t.Errorf("deleting twice: %v", err)
	}

	parts, err := objects{}.Partitions(ctx, bucket+"out/part-*.jsonl"+query)
	if err != nil || len(parts) != 2 || parts[0].Size != 8 || !parts[0].Splittable || parts[0].Format != "json" {
		t.Fatalf("%+v, %v", parts, err)
	}
	if text := read(ctx, t, parts[0], 3); text != "\ntwo\n" {
		t.Errorf("a partition from offset 3: %q", text)
	}
	if _, err := (objects{}).Partitions(ctx, bucket+"nothing/here.jsonl"+query); err == nil || !strings.Contains(err.Error(), "here.jsonl") {
		t.Errorf("an object that isn't there: %v", err)
	}
}

func read(ctx context.Context, t *testing.T, p driver.Partition, offset int64) string {
	t.Helper()
	r, err := objects{}.Open(ctx, p, offset)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	b, err := io.ReadAll(r)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}
