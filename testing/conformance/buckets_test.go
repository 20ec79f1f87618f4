package conformance

import (
	"net/http"
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/s3"

	"github.com/millrace-ml/millrace/testing/components"
	_ "github.com/millrace-ml/millrace/transforms/connect/blob"
)

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
