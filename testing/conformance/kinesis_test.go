package conformance

import (
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/millrace-ml/millrace/testing/components"
	_ "github.com/millrace-ml/millrace/transforms/connect/kinesis"
	"github.com/millrace-ml/millrace/transforms/source/driver"
)

const absentKinesis = "kinesis://absent?region=us-east-1&endpoint=http://127.0.0.1:1&access_key=somebody&secret_key=hunter2"

func kinesisLog(server *components.Streams) *log {
	return &log{several: true, absent: absentKinesis, topic: func(t *testing.T, name string) *topic {
		return &topic{
			address: server.Address(server.Addr, name),
			open:    func(shards int) { server.CreateStream(name, shards) },
			put: func(shard int, values ...string) {
				server.Put(name, *server.Shards(name)[shard].HashKeyRange.StartingHashKey, values...)
			},
		}
	}}
}

func kinesisPublisher(server *components.Streams) *publisher {
	return &publisher{absent: absentKinesis, orders: true, target: func(t *testing.T, name string) *target {
		server.CreateStream(name, 3)
		// The server keeps nothing: what is taken away is the way to it.
		var away atomic.Bool
		way := httputil.NewSingleHostReverseProxy(&url.URL{Scheme: "http", Host: server.Addr})
		front := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if away.Load() {
				panic(http.ErrAbortHandler)
			}
			way.ServeHTTP(w, r)
		}))
		t.Cleanup(front.Close)
		address := server.Address(strings.TrimPrefix(front.URL, "http://"), name)
		return &target{
			address: address,
			refused: `{"k":"k1","s":"` + noise(1<<20) + `"}`,
			kill: func() func() {
				away.Store(true)
				return func() { away.Store(false) }
			},
			came: func() (all []string) {
				source := server.Address(server.Addr, name)
				r := follow(t, lookup(t, source).(driver.Log), source, nil)
				for known := 0; known < 3; known = len(r.Lag()) { // of a shard that has given all the lag is known
					r.poll(t, 100*time.Millisecond, 1<<20)
				}
				for _, values := range r.got {
					all = append(all, values...)
				}
				return all
			},
		}
	}}
}
