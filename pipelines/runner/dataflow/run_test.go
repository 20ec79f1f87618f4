package dataflow

import (
	"context"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"debug/elf"
	"encoding/binary"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"mime"
	"mime/multipart"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	pipepb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/pipeline_v1"
	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	df "google.golang.org/api/dataflow/v1b3"
	"google.golang.org/protobuf/proto"
)

// cloud is what a job needs of Google's: objects, tokens, and a Dataflow that knows one job.
type cloud struct {
	t   *testing.T
	url string

	mu      sync.Mutex
	states  []string // of the job, one a look; the last one stays
	running string   // name of a job that runs already
	away    int      // looks that are answered with 503
	objects map[string][]byte
	created *df.Job
	asked   []string          // states that the job was asked for
	onLook  func()            // called at each look, without the lock
	answers map[string]string // to a state that is asked for: the next state
}

func newCloud(t *testing.T, states ...string) *cloud {
	c := &cloud{t: t, states: states, objects: map[string][]byte{}, onLook: func() {}, answers: map[string]string{"JOB_STATE_CANCELLED": "JOB_STATE_CANCELLED", "JOB_STATE_DRAINED": "JOB_STATE_DRAINED"}}
	s := httptest.NewServer(http.HandlerFunc(c.serve))
	t.Cleanup(s.Close)
	c.url = s.URL
	t.Setenv("STORAGE_EMULATOR_HOST", s.URL)
	t.Setenv("GOOGLE_APPLICATION_CREDENTIALS", c.account())
	before := poll
	poll = time.Millisecond
	t.Cleanup(func() { poll = before })
	return c
}

// account is the file of a service account whose tokens the cloud gives.
func (c *cloud) account() string {
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		c.t.Fatal(err)
	}
	text, err := json.Marshal(map[string]string{
		"type": "service_account", "client_email": "launcher@acme-risk.iam.gserviceaccount.com", "token_uri": c.url + "/token",
		"private_key": string(pem.EncodeToMemory(&pem.Block{Type: "RSA PRIVATE KEY", Bytes: x509.MarshalPKCS1PrivateKey(key)})),
	})
	if err != nil {
		c.t.Fatal(err)
	}
	path := filepath.Join(c.t.TempDir(), "account.json")
	if err := os.WriteFile(path, text, 0o600); err != nil {
		c.t.Fatal(err)
	}
	return path
}

func (c *cloud) serve(w http.ResponseWriter, r *http.Request) {
	const jobs = "/v1b3/projects/acme-risk/locations/europe-west1/jobs"
	if r.Method == http.MethodGet && r.URL.Path == jobs+"/1" {
		c.onLook()
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	w.Header().Set("Content-Type", "application/json")
	answer := func(v any) { _ = json.NewEncoder(w).Encode(v) }
	switch path := r.URL.Path; {
	case path == "/token":
		answer(map[string]any{"access_token": "t", "token_type": "Bearer", "expires_in": 3600})
	case strings.HasPrefix(path, "/upload/storage/v1/b/") && r.URL.Query().Get("uploadType") == "multipart":
		answer(c.upload(strings.Split(path, "/")[5], r))
	case path == jobs && r.Method == http.MethodGet:
		list := df.ListJobsResponse{Jobs: []*df.Job{{Name: "other", Id: "7"}}}
		if c.running != "" {
			list.Jobs = append(list.Jobs, &df.Job{Name: c.running, Id: "0"})
		}
		answer(list)
	case path == jobs && r.Method == http.MethodPost:
		c.created = &df.Job{}
		if err := json.NewDecoder(r.Body).Decode(c.created); err != nil {
			c.t.Error(err)
		}
		answer(df.Job{Id: "1"})
	case path == jobs+"/1" && r.Method == http.MethodGet:
		if c.away > 0 {
			c.away--
			http.Error(w, "away", http.StatusServiceUnavailable)
			return
		}
		now := c.states[0]
		if len(c.states) > 1 {
			c.states = c.states[1:]
		}
		answer(df.Job{Id: "1", CurrentState: now})
	case path == jobs+"/1" && r.Method == http.MethodPut:
		var j df.Job
		if err := json.NewDecoder(r.Body).Decode(&j); err != nil {
			c.t.Error(err)
		}
		c.asked, c.states = append(c.asked, j.RequestedState), []string{c.answers[j.RequestedState]}
		answer(j)
	case path == jobs+"/1/messages":
		answer(df.ListJobMessagesResponse{JobMessages: []*df.JobMessage{{MessageText: "a worker died"}, {MessageText: "no quota for CPUs\n"}}})
	case path == jobs+"/1/metrics":
		user := func(step, name, tentative string, n int64) *df.MetricUpdate {
			return &df.MetricUpdate{Name: &df.MetricStructuredName{Name: name, Context: map[string]string{"namespace": "source", "step": step, "tentative": tentative}}, Scalar: n}
		}
		answer(df.JobMetrics{Metrics: []*df.MetricUpdate{
			user("e1", "read", "", 40), user("e2", "read", "", 2), user("e1", "read", "true", 50), user("e1", "bad", "true", 3),
			{Name: &df.MetricStructuredName{Name: "TotalVcpuTime", Context: map[string]string{}}, Scalar: 9}, {Name: &df.MetricStructuredName{Name: "sizes", Context: map[string]string{"namespace": "source"}}},
		}})
	default:
		c.t.Errorf("%s %s: nobody asks for that", r.Method, r.URL)
		http.NotFound(w, r)
	}
}

func (c *cloud) upload(bucket string, r *http.Request) map[string]string {
	_, params, err := mime.ParseMediaType(r.Header.Get("Content-Type"))
	if err != nil {
		c.t.Error(err)
	}
	parts := multipart.NewReader(r.Body, params["boundary"])
	var object struct{ Name string }
	for i := range 2 {
		p, err := parts.NextPart()
		if err != nil {
			c.t.Error(err)
			break
		}
		content, err := io.ReadAll(p)
		if err == nil && i == 0 {
			err = json.Unmarshal(content, &object)
		}
		if err != nil {
			c.t.Error(err)
		}
		c.objects["gs://"+bucket+"/"+object.Name] = content
	}
	return map[string]string{"name": object.Name, "bucket": bucket}
}

// options are those of a job in this cloud, with a small worker.
func (c *cloud) options() Options {
	o := asked()
	o.Endpoint, o.JobName, o.WorkerBinary = c.url+"/", "fraud", filepath.Join(c.t.TempDir(), "worker")
	header := elf.Header64{Ident: [16]byte{0x7f, 'E', 'L', 'F', byte(elf.ELFCLASS64), byte(elf.ELFDATA2LSB), byte(elf.EV_CURRENT)}, Type: uint16(elf.ET_EXEC), Machine: uint16(elf.EM_X86_64), Version: 1, Ehsize: 64}
	text, err := binary.Append(nil, binary.LittleEndian, header)
	if err == nil {
		err = os.WriteFile(o.WorkerBinary, text, 0o755)
	}
	if err != nil {
		c.t.Fatal(err)
	}
	return o
}

func TestRun(t *testing.T) {
	c := newCloud(t, "JOB_STATE_PENDING", "JOB_STATE_RUNNING", "JOB_STATE_RUNNING", "JOB_STATE_DONE")
	c.away = 2
	p, o := scoringGraph(t, shape{}), c.options()
	var told []State
	counters, err := Run(t.Context(), p, o, func(s State) { told = append(told, s) })
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(map[string]int64{"source.read": 42, "source.bad": 3}, counters); d != "" {
		t.Error(d)
	}
	const console = "https://console.cloud.google.com/dataflow/jobs/europe-west1/1?project=acme-risk"
	if d := cmp.Diff([]State{{"1", console, "JOB_STATE_PENDING"}, {"1", console, "JOB_STATE_RUNNING"}, {"1", console, "JOB_STATE_DONE"}}, told); d != "" {
		t.Error(d)
	}
	want, err := Describe(t.Context(), p, o)
	if err != nil {
		t.Fatal(err)
	}
	text, err := c.created.MarshalJSON()
	if err != nil {
		t.Fatal(err)
	}
	var staged pipepb.Pipeline
	got, err := parse(text, &staged)
	if err != nil {
		t.Fatal(err)
	}
	if err := proto.Unmarshal(c.objects[got.Model], &staged); err != nil || c.objects[got.Model] == nil {
		t.Fatalf("no graph at %s: %v", got.Model, err)
	}
	if got, err = parse(text, &staged); err != nil {
		t.Fatal(err)
	}
	// The SDK writes some of a graph's maps in any order: translated again it is staged elsewhere.
	if d := cmp.Diff(want, got, cmpopts.IgnoreFields(Job{}, "Model")); d != "" {
		t.Errorf("described (-) and started (+):\n%s", d)
	}
	worker, err := os.ReadFile(o.WorkerBinary)
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(worker, c.objects[want.Worker]); d != "" {
		t.Errorf("the worker that is staged: %s", d)
	}
}

func TestRunEnds(t *testing.T) {
	c := newCloud(t, "JOB_STATE_RUNNING", "JOB_STATE_FAILED")
	_, err := Run(t.Context(), scoringGraph(t, shape{}), c.options(), nil)
	if !errors.Is(err, ErrFailed) || !strings.HasSuffix(err.Error(), ": no quota for CPUs") {
		t.Errorf("a job that fails gives %v", err)
	}
	c.states = []string{"JOB_STATE_CANCELLED"}
	if _, err := Run(t.Context(), scoringGraph(t, shape{}), c.options(), nil); !errors.Is(err, ErrCancelled) {
		t.Errorf("a job that somebody cancels gives %v", err)
	}
	c.away = 1000
	if _, err := Run(t.Context(), scoringGraph(t, shape{}), c.options(), nil); err == nil || ended(err) || !strings.Contains(err.Error(), "which may go on") {
		t.Errorf("a service that stays away gives %v", err)
	}
}

func TestRunStops(t *testing.T) {
	for _, c := range []struct {
		stop string
		want []string
		err  error
	}{{"", []string{"JOB_STATE_CANCELLED"}, ErrCancelled}, {StopDrain, []string{"JOB_STATE_DRAINED"}, nil}, {StopLeave, nil, context.Canceled}} {
		t.Run(fmt.Sprintf("on_stop=%s", c.stop), func(t *testing.T) {
			g := newCloud(t, "JOB_STATE_RUNNING")
			ctx, cancel := context.WithCancel(t.Context())
			g.onLook = cancel
			o := g.options()
			o.OnStop = c.stop
			counters, err := Run(ctx, scoringGraph(t, shape{stream: true, order: "arrival"}), o, nil)
			if !errors.Is(err, c.err) {
				t.Errorf("stopping gives %v, want %v", err, c.err)
			}
			if c.stop != StopLeave && counters["source.read"] != 42 {
				t.Errorf("the job's counters are %v", counters)
			}
			if d := cmp.Diff(c.want, g.asked); d != "" {
				t.Error(d)
			}
		})
	}
}

func TestRunUpdates(t *testing.T) {
	c := newCloud(t, "JOB_STATE_RUNNING", "JOB_STATE_UPDATED")
	o := c.options()
	o.Update = true
	graph := shape{stream: true, order: "arrival"}
	if _, err := Run(t.Context(), scoringGraph(t, graph), o, nil); err == nil || !strings.Contains(err.Error(), "fraud") || c.created != nil {
		t.Errorf("an update of no job gives %v, and the job %v", err, c.created)
	}
	c.running = "fraud"
	if _, err := Run(t.Context(), scoringGraph(t, graph), o, nil); err != nil || c.created.ReplaceJobId != "0" {
		t.Errorf("the update replaces %q: %v", c.created.ReplaceJobId, err)
	}
}

// TestRunTemplate holds that a template's job is written, not started.
func TestRunTemplate(t *testing.T) {
	c := newCloud(t)
	p, o := scoringGraph(t, shape{}), c.options()
	o.TemplateLocation = "gs://acme-risk/templates/job.json"
	if _, err := Run(t.Context(), p, o, nil); err != nil {
		t.Fatal(err)
	}
	var job df.Job
	if err := json.Unmarshal(c.objects[o.TemplateLocation], &job); err != nil || job.Name != "fraud" {
		t.Errorf("the job that is written is %q: %v", job.Name, err)
	}
	if c.created != nil {
		t.Error("a job was started")
	}
	o.TemplateLocation, o.DryRun = "", true
	if _, err := Run(t.Context(), p, o, nil); err == nil {
		t.Error("a dry run runs")
	}
}
