package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"embed"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime/multipart"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"time"
)

// startPeer sends the peer's jar to the cluster, and starts it there.
func startPeer(ctx context.Context, r *flinkRun) (context.Context, func(), error) {
	b := r.bench
	id, err := r.upload(ctx, b.jar)
	if err != nil {
		return nil, nil, err
	}
	body, err := json.Marshal(map[string]any{"entryClass": "bench.Fraud", "programArgsList": []string{
		b.broker.Addr, r.in, r.out, filepath.Join(b.dir, "model"), strconv.Itoa(r.parallelism), strconv.FormatInt(checkpointEvery.Milliseconds(), 10),
	}})
	if err == nil {
		err = r.post(ctx, "/jars/"+id+"/run", "application/json", bytes.NewReader(body), &struct{}{})
	}
	if err != nil {
		return nil, nil, err
	}
	ctx, end := context.WithCancelCause(ctx)
	go func() { // a job that fails would start again for ever
		for ctx.Err() == nil {
			if err := r.fault(ctx); err != nil {
				end(err)
			}
			time.Sleep(time.Second)
		}
	}()
	return ctx, func() { end(nil) }, nil
}

func (r *flinkRun) upload(ctx context.Context, jar string) (id string, err error) {
	text, err := os.ReadFile(jar)
	if err != nil {
		return "", err
	}
	var form bytes.Buffer
	w := multipart.NewWriter(&form)
	part, err := w.CreateFormFile("jarfile", "peer.jar")
	if err != nil {
		return "", err
	}
	_, err = part.Write(text)
	if err := errors.Join(err, w.Close()); err != nil {
		return "", err
	}
	var answer struct{ Filename string }
	err = r.post(ctx, "/jars/upload", w.FormDataContentType(), &form, &answer)
	return filepath.Base(answer.Filename), err
}

func (r *flinkRun) post(ctx context.Context, path, kind string, body io.Reader, answer any) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://"+r.cluster.REST()+path, body)
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", kind)
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s answers %s: %s", path, resp.Status, text[:min(len(text), 2000)])
	}
	if err == nil {
		err = json.Unmarshal(text, answer)
	}
	return err
}

// exportModel writes the files of the champion into a folder, as the peer reads them.
func exportModel(ctx context.Context, from, to string) error {
	bundle, err := champion(ctx, from)
	if err != nil {
		return err
	}
	files, err := bundle.Model.Files()
	if err != nil {
		return err
	}
	if err := os.MkdirAll(to, 0o700); err != nil {
		return err
	}
	for name, text := range files {
		if err := os.WriteFile(filepath.Join(to, name), text, 0o600); err != nil {
			return err
		}
	}
	return nil
}

//go:embed flinkpeer
var flinkPeerSource embed.FS

// flinkPeer is the jar of the peer, which is built once, into the folder millrace/bench of the user's cache.
func flinkPeer(ctx context.Context) (jar string, err error) {
	cache, err := os.UserCacheDir()
	if err != nil {
		return "", err
	}
	sum, names := sha256.New(), []string{"pom.xml", "Fraud.java"}
	files := map[string][]byte{}
	for _, name := range names {
		if files[name], err = flinkPeerSource.ReadFile("flinkpeer/" + name); err != nil {
			return "", err
		}
		sum.Write(files[name])
	}
	jar = filepath.Join(cache, "millrace", "bench", fmt.Sprintf("flinkpeer-%x.jar", sum.Sum(nil)[:8]))
	if _, err := os.Stat(jar); err == nil {
		return jar, nil
	}
	if err := os.MkdirAll(filepath.Dir(jar), 0o755); err != nil {
		return "", err
	}
	dir, err := os.MkdirTemp(filepath.Dir(jar), "flinkpeer-")
	if err != nil {
		return "", err
	}
	defer os.RemoveAll(dir)
	for _, name := range names {
		if err := os.WriteFile(filepath.Join(dir, name), files[name], 0o600); err != nil {
			return "", err
		}
	}
	say("building the peer")
	cmd := exec.CommandContext(ctx, "mvn", "-B", "-q", "package")
	cmd.Dir = dir
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("building the peer on Flink with Maven (and a JDK of 17 or later): %w: %s", err, out[max(0, len(out)-2000):])
	}
	return jar, os.Rename(filepath.Join(dir, "target", "fraud-1.jar"), jar)
}
